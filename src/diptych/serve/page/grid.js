// The grid of hits.

const grid = document.getElementById("grid");
const template = document.getElementById("card");

export class Grid {
  // `act(name, row)` is called for "similar", "view", "add" and "select"; `point(row)` for the row that
  // the pointer is on, or null.
  constructor(act, point) {
    this.act = act;
    this.rows = [];
    this.best = null;
    this.meaning = ""; // of the number beside a card
    grid.addEventListener("click", (event) => this.clicked(event));
    grid.addEventListener("keydown", (event) => this.pressed(event));
    grid.addEventListener("pointerover", (event) => point(this.at(event.target.closest(".card"))));
    grid.addEventListener("pointerleave", () => point(null));
  }

  // `meaning` is of the number beside a card, and `ranked` whether it says how good a hit is.
  clear(meaning, ranked) {
    this.meaning = meaning;
    grid.classList.toggle("unranked", !ranked);
    this.rows = [];
    this.best = null;
    grid.replaceChildren();
  }

  busy(is) {
    grid.classList.toggle("busy", is);
    grid.setAttribute("aria-busy", is);
  }

  // Rows that are there already are left out: pages of an index may overlap.
  append(rows, selected) {
    const there = new Set(this.rows.map((row) => row.row));
    const added = rows.filter((row) => !there.has(row.row));
    if (this.best === null && added.length && added[0].score !== undefined) this.best = added[0].score;
    grid.append(...added.map((row) => this.card(row, selected(row))));
    this.rows.push(...added);
    this.rove();
    return added.length;
  }

  card(row, selected) {
    const card = template.content.cloneNode(true).firstElementChild;
    const frame = card.querySelector(".frame");
    const image = card.querySelector("img");
    const label = row.caption || row.key;
    card.dataset.row = row.row;
    card.querySelector(".show").setAttribute("aria-label", `${label}: more like this`);
    card.querySelector(".show").title = "More like this (Enter)";
    if (row.image) {
      frame.classList.add("wait");
      load(image, frame, `${row.image}&size=320`, 2);
    } else {
      frame.classList.add("none");
      frame.dataset.text = label;
      card.classList.add("text");
      card.querySelector("p").remove();
    }
    const text = card.querySelector(".below p");
    if (text) {
      text.textContent = row.caption ?? row.key;
      text.title = row.caption ? `${row.caption}\n${row.key}` : row.key;
    }
    if (row.score === undefined) card.classList.add("plain");
    else {
      card.querySelector(".below b").textContent = row.score.toFixed(3);
      card.querySelector(".below b").title = this.meaning;
      const share = this.best > 0 ? Math.max(0, Math.min(1, row.score / this.best)) : 0;
      card.querySelector(".score i").style.width = `${100 * share}%`;
    }
    mark(card, selected);
    return card;
  }

  mark(row, selected) {
    const card = grid.querySelector(`[data-row="${row.row}"]`);
    if (card) mark(card, selected);
  }

  // Rows that belong together, under a title.
  appendGroup(title, rows, selected) {
    const head = document.createElement("li");
    head.className = "group";
    head.textContent = title;
    grid.append(head);
    this.append(rows, selected);
  }

  cards() {
    return [...grid.querySelectorAll(".card")];
  }

  at(card) {
    if (!card) return null;
    return this.rows.find((row) => String(row.row) === card.dataset.row);
  }

  clicked(event) {
    const button = event.target.closest("button");
    const card = event.target.closest(".card");
    if (!button || !card) return;
    const action = ["view", "add", "tick", "show"].find((name) => button.classList.contains(name));
    this.act({ tick: "select", show: "similar" }[action] ?? action, this.at(card));
  }

  pressed(event) {
    const card = event.target.closest(".card");
    if (!card || event.ctrlKey || event.metaKey || event.altKey) return;
    const action = { v: "view", a: "add", s: "select" }[event.key.toLowerCase()];
    if (action) {
      event.preventDefault();
      this.act(action, this.at(card));
      return;
    }
    const cards = this.cards();
    const here = cards.indexOf(card);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const line = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Home") this.focus(cards[0]);
    else if (event.key === "End") this.focus(cards.at(-1));
    else if (line) this.toLine(cards, card, line);
    else if (step === undefined) return;
    else if (here + step < 0) document.getElementById("words").focus();
    else this.focus(cards[Math.min(here + step, cards.length - 1)]);
    event.preventDefault();
  }

  // To the card above or below, which may be of another group.
  toLine(cards, card, line) {
    const beyond = cards.filter((other) => line * (other.offsetTop - card.offsetTop) > 0);
    if (!beyond.length && line < 0) document.getElementById("words").focus();
    else if (!beyond.length) this.focus(cards.at(-1));
    else {
      const away = (other) => [Math.abs(other.offsetTop - card.offsetTop), Math.abs(other.offsetLeft - card.offsetLeft)];
      const nearer = (a, b) => away(a)[0] - away(b)[0] || away(a)[1] - away(b)[1];
      this.focus(beyond.sort(nearer)[0]);
    }
  }

  focusFirst() {
    const first = grid.querySelector(".card");
    if (first) this.focus(first);
  }

  focusRow(row) {
    const card = grid.querySelector(`[data-row="${row.row}"]`);
    if (card) this.focus(card);
  }

  focus(card) {
    this.rove(card);
    card.querySelector(".show").focus();
    card.scrollIntoView({ block: "nearest" });
  }

  // One card is in the order of the tab key; the arrows lead to the others.
  rove(chosen = grid.querySelector(".show[tabindex='0']")?.closest(".card") ?? grid.querySelector(".card")) {
    for (const card of this.cards()) {
      for (const button of card.querySelectorAll("button")) button.tabIndex = -1;
    }
    if (chosen) chosen.querySelector(".show").tabIndex = 0;
  }
}

function mark(card, selected) {
  card.classList.toggle("on", selected);
  card.querySelector(".tick").setAttribute("aria-pressed", selected);
}

// An image that the busy server refused is asked for again.
export function load(image, frame, address, again) {
  image.onload = () => {
    frame.classList.remove("wait");
    image.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) <= 96);
  };
  image.onerror = () => {
    if (again > 0) {
      setTimeout(() => load(image, frame, `${address}&v=again${again}`, again - 1), 900);
      return;
    }
    frame.classList.remove("wait");
    frame.classList.add("none");
    frame.dataset.text = "This image cannot be shown";
  };
  image.src = address;
}
