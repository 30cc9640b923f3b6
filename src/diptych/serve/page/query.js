// The search box and the terms below it.

import { imageOf } from "./state.js";

const list = document.getElementById("terms");
const words = document.getElementById("words");
const where = document.getElementById("where");

export class QueryBox {
  // `changed(now)` is called when the query changes; `now` is true unless somebody is typing.
  constructor(changed) {
    this.changed = changed;
    this.query = null;
    this.addresses = new Map(); // of the images of rows
    words.addEventListener("input", () => {
      this.query.words = words.value;
      this.changed(false);
    });
    // Half a filter is none: it counts when it is finished.
    where.addEventListener("change", () => {
      this.query.where = where.value;
      this.changed(true);
    });
    document.getElementById("more").addEventListener("click", () => this.addWords("plus"));
    document.getElementById("less").addEventListener("click", () => this.addWords("minus"));
    document.getElementById("clear").addEventListener("click", () => {
      this.query.words = "";
      this.query.terms = [];
      this.query.where = "";
      this.show(this.query);
      this.changed(true);
      words.focus();
    });
  }

  show(query) {
    this.query = query;
    if (words.value.trim() !== query.words.trim()) words.value = query.words;
    where.value = query.where;
    list.replaceChildren(...query.terms.map((term) => this.item(term)));
    this.tidy();
  }

  tidy() {
    document.getElementById("clear").hidden = !this.query.terms.length && !this.query.words && !this.query.where;
  }

  addWords(kind) {
    const unused = this.query.terms.find((term) => term.kind === kind && !term.text.trim());
    if (!unused) this.query.terms.push({ kind, text: "" });
    this.show(this.query);
    const items = [...list.children];
    items[this.query.terms.indexOf(unused ?? this.query.terms.at(-1))].querySelector("input").focus();
  }

  add(term) {
    this.query.terms.push(term);
    this.show(this.query);
    this.changed(true);
  }

  item(term) {
    const item = document.createElement("li");
    item.className = `term ${term.kind}`;
    const sign = document.createElement("button");
    sign.type = "button";
    sign.className = "sign";
    sign.textContent = term.kind === "minus" ? "−" : "+";
    const worded = term.kind === "plus" || term.kind === "minus";
    sign.disabled = !worded;
    if (worded) {
      sign.title = term.kind === "minus" ? "Add these words" : "Take these words away";
      sign.setAttribute("aria-label", sign.title);
      sign.addEventListener("click", () => {
        term.kind = term.kind === "minus" ? "plus" : "minus";
        this.show(this.query);
        this.changed(true);
      });
    }
    const off = document.createElement("button");
    off.type = "button";
    off.className = "off";
    off.textContent = "×";
    off.setAttribute("aria-label", "Remove");
    off.addEventListener("click", () => this.remove(term));
    item.append(sign, ...(worded ? [this.input(term)] : this.picture(term)), off);
    return item;
  }

  remove(term) {
    this.query.terms.splice(this.query.terms.indexOf(term), 1);
    this.show(this.query);
    this.changed(true);
    words.focus({ preventScroll: true });
  }

  input(term) {
    const input = document.createElement("input");
    input.value = term.text;
    input.size = Math.max(6, term.text.length + 1);
    input.placeholder = term.kind === "minus" ? "without …" : "with …";
    input.setAttribute("aria-label", term.kind === "minus" ? "Words to take away" : "Words to add");
    input.spellcheck = false;
    input.maxLength = 2000;
    input.addEventListener("input", () => {
      term.text = input.value;
      input.size = Math.max(6, input.value.length + 1);
      this.changed(false);
    });
    input.addEventListener("keydown", (event) => {
      if (event.key === "Backspace" && !input.value) {
        event.preventDefault();
        this.remove(term);
      }
    });
    input.addEventListener("blur", () => {
      if (input.value.trim() || !this.query.terms.includes(term)) return;
      // After the click that took the focus has found its target.
      setTimeout(() => {
        if (term.text.trim() || !this.query.terms.includes(term)) return;
        this.query.terms.splice(this.query.terms.indexOf(term), 1);
        input.closest("li").remove();
        this.tidy();
      }, 200);
    });
    return input;
  }

  picture(term) {
    const image = document.createElement("img");
    image.alt = "";
    const name = document.createElement("span");
    if (term.kind === "image") {
      image.src = imageOf(term).address;
      image.hidden = imageOf(term).file.type.startsWith("video/");
      name.textContent = term.name;
      name.title = "An image from this device. It is not part of the address of the page.";
    } else {
      const shown = this.addresses.get(term.row);
      name.textContent = shown?.caption || shown?.key || `row ${term.row}`;
      if (shown?.image) image.src = `${shown.image}&size=160`;
      else image.hidden = true;
    }
    return [image, name];
  }
}
