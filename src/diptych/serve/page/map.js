// The map: a dot for each row, drawn on a canvas, which can be dragged and enlarged.
//
// Places are in the unit square. The view is { x, y, scale }: the place in the middle of the canvas,
// and the pixels that a side of the square takes.

const panel = document.getElementById("map");
const canvas = document.getElementById("dots");
const label = document.getElementById("dot");
const note = document.getElementById("mapped");
const NEAR = 14; // pixels from a dot that still count as on it
const SHOWN = 56; // pixels of an image among the dots
const FARTHEST = 400; // times the whole map
const PAUSE = 180; // milliseconds without a movement, before images are asked for

export class MapPanel {
  // `row(number)` returns a promise of one row; `act` is that of the grid.
  constructor(row, act) {
    this.row = row;
    this.act = act;
    this.rows = [];
    this.x = [];
    this.y = [];
    this.hits = new Map(); // places of what was found, best first
    this.near = null; // the row that is pointed at, here or in the grid
    this.images = new Map(); // those among the dots, by their row
    this.shown = []; // rows whose images are drawn
    this.image = null; // the address of a row's image
    this.view = { x: 0.5, y: 0.5, scale: 1 };
    this.frame = 0;
    this.pause = 0;
    this.listen();
  }

  get open() {
    return !panel.hidden;
  }

  // `reply` is that of the server; `image(row)` the address of a row's image, or null.
  show(reply, image) {
    panel.hidden = false;
    this.rows = reply.rows;
    this.x = Float32Array.from(reply.x);
    this.y = Float32Array.from(reply.y);
    this.image = image;
    this.images.clear();
    const shown = reply.rows.length.toLocaleString();
    note.textContent = reply.rows.length < reply.total ? `${shown} of ${reply.total.toLocaleString()} shown` : "";
    this.whole();
  }

  hide() {
    panel.hidden = true;
    this.leave();
  }

  found(rows, isQuery) {
    this.hits = new Map(isQuery ? rows.filter((row) => row.place).map((row) => [row.row, row.place]) : []);
    this.draw();
  }

  point(row) {
    this.near = row && row.place ? { row: row.row, place: row.place } : null;
    this.draw();
  }

  whole() {
    this.size();
    this.view = { x: 0.5, y: 0.5, scale: 0.92 * Math.min(this.width, this.height) };
    this.moved();
  }

  size() {
    const ratio = devicePixelRatio || 1;
    this.width = panel.clientWidth;
    this.height = panel.clientHeight;
    canvas.width = Math.round(this.width * ratio);
    canvas.height = Math.round(this.height * ratio);
    this.ratio = ratio;
  }

  // Where a place is on the canvas. The second axis points up, as in a diagram.
  onCanvas([x, y]) {
    return [
      this.width / 2 + (x - this.view.x) * this.view.scale,
      this.height / 2 - (y - this.view.y) * this.view.scale,
    ];
  }

  moved() {
    clearTimeout(this.pause);
    this.pause = setTimeout(() => this.choose(), PAUSE);
    this.draw();
  }

  draw() {
    if (!this.open || this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.paint();
    });
  }

  paint() {
    const style = getComputedStyle(panel);
    const context = canvas.getContext("2d");
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    context.fillStyle = style.getPropertyValue("--dot");
    context.globalAlpha = this.hits.size ? 0.35 : 0.7;
    const seen = this.visible();
    const side = seen.length > 40_000 ? 1.5 : seen.length > 4_000 ? 2.5 : 4;
    for (let at = 0; at < seen.length; at += 2) context.fillRect(seen[at] - side / 2, seen[at + 1] - side / 2, side, side);
    context.globalAlpha = 1;
    for (const at of this.shown) this.paintImage(context, at);
    context.fillStyle = style.getPropertyValue("--hit");
    context.strokeStyle = style.getPropertyValue("--edge");
    context.lineWidth = 1.5;
    for (const place of [...this.hits.values()].reverse()) circle(context, this.onCanvas(place), 5.5);
    if (this.near) {
      context.fillStyle = style.getPropertyValue("--near");
      circle(context, this.onCanvas(this.near.place), 7);
    }
  }

  // Where the dots are that the canvas shows: left, top, left, top, …
  visible() {
    const { x, y, scale } = this.view;
    const seen = [];
    for (let at = 0; at < this.rows.length; at += 1) {
      const left = this.width / 2 + (this.x[at] - x) * scale;
      const top = this.height / 2 - (this.y[at] - y) * scale;
      if (left > -4 && top > -4 && left < this.width + 4 && top < this.height + 4) seen.push(left, top);
    }
    return seen;
  }

  paintImage(context, at) {
    const image = this.images.get(this.rows[at]);
    if (!image?.complete || !image.naturalWidth) return;
    const [left, top] = this.onCanvas([this.x[at], this.y[at]]);
    const factor = SHOWN / Math.max(image.naturalWidth, image.naturalHeight);
    const width = image.naturalWidth * factor;
    const height = image.naturalHeight * factor;
    context.drawImage(image, left - width / 2, top - height / 2, width, height);
  }

  // Choose rows whose images are drawn, so that none is near another one. Rows come from all over the
  // collection, and in the same order each time.
  choose() {
    if (!this.open || !this.image) return;
    const apart = 1.5 * SHOWN;
    const taken = new Map(); // what is chosen, by fields as wide as `apart`
    const chosen = [];
    for (let at = 0; at < this.rows.length; at += 1) {
      const [left, top] = this.onCanvas([this.x[at], this.y[at]]);
      if (left < SHOWN / 2 || top < SHOWN / 2 || left > this.width - SHOWN / 2 || top > this.height - SHOWN / 2) continue;
      const column = Math.floor(left / apart);
      const line = Math.floor(top / apart);
      if (crowded(taken, column, line, left, top, apart)) continue;
      taken.set(1e6 * line + column, [left, top]);
      chosen.push(at);
    }
    this.shown = chosen;
    for (const at of this.shown) {
      const row = this.rows[at];
      if (this.images.has(row)) continue;
      const image = new Image();
      image.onload = () => this.draw();
      image.src = `${this.image(row)}&size=160`;
      this.images.set(row, image);
    }
    this.draw();
  }

  // The row at a point of the canvas; what was found comes before the rest.
  at(left, top) {
    let best = null;
    let least = NEAR;
    for (const [row, place] of this.hits) {
      const [x, y] = this.onCanvas(place);
      const away = Math.hypot(x - left, y - top);
      if (away < least) [best, least] = [{ row, place }, away];
    }
    if (best) return best;
    for (const at of this.shown) {
      const [x, y] = this.onCanvas([this.x[at], this.y[at]]);
      if (Math.max(Math.abs(x - left), Math.abs(y - top)) < SHOWN / 2) {
        return { row: this.rows[at], place: [this.x[at], this.y[at]] };
      }
    }
    for (let at = 0; at < this.rows.length; at += 1) {
      const [x, y] = this.onCanvas([this.x[at], this.y[at]]);
      const away = Math.hypot(x - left, y - top);
      if (away < least) [best, least] = [{ row: this.rows[at], place: [this.x[at], this.y[at]] }, away];
    }
    return best;
  }

  listen() {
    const pointers = new Map();
    let from = null; // where a press began; null once it is a drag
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
      from = pointers.size === 1 ? [event.offsetX, event.offsetY] : null;
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      const now = [event.offsetX, event.offsetY];
      if (!before) {
        this.hover(...now);
        return;
      }
      if (from && Math.hypot(now[0] - from[0], now[1] - from[1]) > 5) from = null;
      if (pointers.size === 2) {
        const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
        const factor = distance(now, other) / Math.max(1, distance(before, other));
        this.enlarge(factor, (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      } else if (!from) {
        this.view.x -= (now[0] - before[0]) / this.view.scale;
        this.view.y += (now[1] - before[1]) / this.view.scale;
        this.moved();
      }
      pointers.set(event.pointerId, now);
    });
    canvas.addEventListener("pointerup", (event) => {
      pointers.delete(event.pointerId);
      const near = from && this.at(event.offsetX, event.offsetY);
      from = null;
      if (near) this.look(near.row);
    });
    canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", () => this.leave());
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        this.enlarge(Math.exp(-event.deltaY / (event.deltaMode ? 12 : 300)), event.offsetX, event.offsetY);
      },
      { passive: false },
    );
    canvas.addEventListener("keydown", (event) => this.pressed(event));
    document.getElementById("closer").addEventListener("click", () => this.enlarge(1.6));
    document.getElementById("farther").addEventListener("click", () => this.enlarge(1 / 1.6));
    document.getElementById("whole").addEventListener("click", () => this.whole());
    new ResizeObserver(() => {
      if (!this.open || (panel.clientWidth === this.width && panel.clientHeight === this.height)) return;
      this.size();
      this.moved();
    }).observe(panel);
  }

  pressed(event) {
    const step = 0.15 * Math.min(this.width, this.height) / this.view.scale;
    const along = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] }[event.key];
    if (event.key === "+" || event.key === "=") this.enlarge(1.6);
    else if (event.key === "-") this.enlarge(1 / 1.6);
    else if (event.key === "0") this.whole();
    else if (along) {
      this.view.x += along[0];
      this.view.y += along[1];
      this.moved();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // Enlarge by a factor; the place at the point stays where it is.
  enlarge(factor, left = this.width / 2, top = this.height / 2) {
    const smallest = 0.5 * Math.min(this.width, this.height);
    const scale = Math.max(smallest, Math.min(this.view.scale * factor, FARTHEST * 2 * smallest));
    const dx = left - this.width / 2;
    const dy = this.height / 2 - top;
    this.view.x += dx / this.view.scale - dx / scale;
    this.view.y += dy / this.view.scale - dy / scale;
    this.view.scale = scale;
    this.moved();
  }

  async hover(left, top) {
    const near = this.at(left, top);
    canvas.style.cursor = near ? "pointer" : "grab";
    if (near?.row === this.near?.row) return;
    this.near = near;
    this.draw();
    label.hidden = true;
    if (!near) return;
    const row = await this.row(near.row).catch(() => null);
    if (!row || this.near?.row !== near.row) return;
    const image = label.querySelector("img");
    image.hidden = !row.image;
    if (row.image) image.src = `${row.image}&size=160`;
    label.querySelector("span").textContent = row.caption || row.key;
    const [x, y] = this.onCanvas(near.place);
    label.hidden = false;
    label.style.left = `${Math.max(4, Math.min(x + 14, this.width - label.offsetWidth - 4))}px`;
    label.style.top = `${Math.max(4, Math.min(y + 14, this.height - label.offsetHeight - 4))}px`;
  }

  leave() {
    label.hidden = true;
    this.near = null;
    this.draw();
  }

  async look(number) {
    const row = await this.row(number).catch(() => null);
    if (row) this.act("view", row);
  }
}

function crowded(taken, column, line, left, top, apart) {
  for (let i = column - 1; i <= column + 1; i += 1) {
    for (let j = line - 1; j <= line + 1; j += 1) {
      const other = taken.get(1e6 * j + i);
      if (other && Math.abs(other[0] - left) < apart && Math.abs(other[1] - top) < apart) return true;
    }
  }
  return false;
}

function circle(context, [x, y], radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
  context.stroke();
}

const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
