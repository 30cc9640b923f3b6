// The rows that are selected, and their export.

const bar = document.getElementById("chosen");

export class Selection {
  constructor(changed) {
    this.rows = new Map();
    this.changed = changed; // for each row whose mark changes
    document.getElementById("export").addEventListener("click", () => this.save());
    document.getElementById("copy").addEventListener("click", (event) => this.copy(event.target));
    document.getElementById("drop").addEventListener("click", () => {
      const before = [...this.rows.values()];
      this.rows.clear();
      before.forEach(this.changed);
      this.show();
    });
  }

  has(collection, row) {
    return this.rows.has(`${row.row} ${collection}`);
  }

  toggle(collection, row, query) {
    const key = `${row.row} ${collection}`;
    if (!this.rows.delete(key)) this.rows.set(key, { ...row, collection, query });
    this.changed(row);
    this.show();
  }

  addAll(collection, rows, query) {
    for (const row of rows) {
      if (!this.has(collection, row)) this.rows.set(`${row.row} ${collection}`, { ...row, collection, query });
      this.changed(row);
    }
    this.show();
  }

  show() {
    bar.hidden = this.rows.size === 0;
    document.getElementById("count").textContent = `${this.rows.size.toLocaleString()} selected`;
  }

  save() {
    const file = new Blob(["\ufeff", csv([...this.rows.values()])], { type: "text/csv;charset=utf-8" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = "selection.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  async copy(button) {
    const keys = [...this.rows.values()].map((row) => row.key).join("\n");
    try {
      await navigator.clipboard.writeText(keys);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed here";
    }
    setTimeout(() => (button.textContent = "Copy keys"), 1_500);
  }
}

export function csv(rows) {
  const columns = ["collection", "row", "key", "caption", "score", "query"];
  const kept = [...new Set(rows.flatMap((row) => Object.keys(row.columns)))];
  const sides = rows.some((row) => row.box) ? ["left", "top", "right", "bottom"] : [];
  const lines = rows.map((row) =>
    [
      ...columns.map((name) => row[name]),
      ...sides.map((_, at) => row.box?.[at]),
      ...kept.map((name) => row.columns[name]),
    ]
      .map(cell)
      .join(","),
  );
  return [[...columns, ...sides, ...kept].map(cell).join(","), ...lines, ""].join("\r\n");
}

function cell(value) {
  if (value === undefined || value === null) return "";
  if (typeof value === "number") return String(value);
  // A spreadsheet would take these for formulas, and captions come from anywhere.
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
