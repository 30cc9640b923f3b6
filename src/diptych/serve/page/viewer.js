// One hit, large.

const dialog = document.getElementById("viewer");
const large = document.getElementById("large");
const element = (id) => document.getElementById(id);

export class Viewer {
  // `rows()` are those of the grid; `act` is that of the grid; `selected(row)` says whether one is.
  constructor(rows, act, selected) {
    this.rows = rows;
    this.selected = selected;
    this.row = null;
    element("before").addEventListener("click", () => this.step(-1));
    element("after").addEventListener("click", () => this.step(1));
    element("close").addEventListener("click", () => dialog.close());
    for (const name of ["similar", "add"]) {
      element(name).addEventListener("click", () => {
        dialog.close();
        act(name, this.row);
      });
    }
    element("select").addEventListener("click", () => {
      act("select", this.row);
      this.show(this.row);
    });
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.step(-1);
      else if (event.key === "ArrowRight") this.step(1);
      else if (event.key.toLowerCase() === "s") element("select").click();
      else if (event.key.toLowerCase() === "a") element("add").click();
      else if (event.key.toLowerCase() === "v") dialog.close();
      else return;
      event.preventDefault();
    });
  }

  onClose(then) {
    dialog.addEventListener("close", () => then(this.row));
  }

  step(by) {
    const rows = this.rows();
    const next = rows[rows.findIndex((row) => row.row === this.row.row) + by];
    if (next) this.show(next);
  }

  show(row) {
    const rows = this.rows();
    const at = rows.findIndex((each) => each.row === row.row);
    this.row = row;
    element("before").disabled = at <= 0;
    element("after").disabled = at < 0 || at >= rows.length - 1;
    large.hidden = !row.image;
    element("text").hidden = Boolean(row.image);
    element("text").textContent = row.caption ?? row.key;
    if (row.image) {
      large.src = `${row.image}&size=320`; // it is there already, and the larger one takes its place
      large.classList.remove("tiny");
      const better = new Image();
      better.onload = () => {
        if (this.row !== row) return;
        large.classList.toggle("tiny", Math.max(better.naturalWidth, better.naturalHeight) <= 160);
        large.src = better.src;
      };
      better.src = `${row.image}&size=1280`;
    }
    large.alt = row.caption ?? row.key;
    element("caption").textContent = row.image ? row.caption ?? "" : "";
    const facts = [["Key", row.key], ["Row", row.row.toLocaleString()]];
    if (row.score !== undefined) facts.unshift(["Cosine", row.score.toFixed(4)], ["Rank", row.rank]);
    if (row.box) facts.push(["Box", row.box.map((side) => Math.round(side)).join(", ")]);
    facts.push(...Object.entries(row.columns).map(([name, value]) => [name, value ?? "–"]));
    element("facts").replaceChildren(...facts.map(fact));
    const selected = this.selected(row);
    element("select").setAttribute("aria-pressed", selected);
    element("select").textContent = selected ? "Selected" : "Select";
    if (!dialog.open) dialog.showModal();
  }
}

function fact([name, value]) {
  const group = document.createElement("div");
  const term = document.createElement("dt");
  const detail = document.createElement("dd");
  term.textContent = name;
  detail.textContent = value;
  group.append(term, detail);
  return group;
}
