// The page: it brings the parts together, and shows what the address asks for.

import * as api from "./api.js";
import { Grid } from "./grid.js";
import { MapPanel } from "./map.js";
import { QueryBox } from "./query.js";
import { Selection } from "./selection.js";
import { addressOf, emptyQuery, imageOf, isEmpty, keepImage, queryOf, remembered } from "./state.js";
import { Viewer } from "./viewer.js";

const PAGE = 48; // hits that are asked for at once
const PAUSE = 220; // milliseconds after a key, before the server is asked
const LISTS = ["duplicates", "outliers"]; // views that no query changes
const GROUPS = 24; // groups of duplicates that are asked for at once
const element = (id) => document.getElementById(id);

let about = []; // the collections
let limits = null;
let query = null;
let shown = { title: "", total: 0, ended: true };
let running = null; // the AbortController of the request in progress
let typing = 0;
let mapped = ""; // which map is shown
let drafting = false; // whether the newest entry of the history is of a query that is being typed

const selection = new Selection((row) => grid.mark(row, selection.has(query.collection, row)));
const grid = new Grid(act, (row) => panel.point(row));
const panel = new MapPanel((number) => rowOf(number), act);
const viewer = new Viewer(() => grid.rows, act, (row) => selection.has(query.collection, row));
const box = new QueryBox((now) => {
  clearTimeout(typing);
  if (now) go();
  else typing = setTimeout(() => go({ draft: true }), PAUSE);
});

viewer.onClose((row) => row && grid.focusRow(row));

function here() {
  return about.find((each) => each.name === query.collection);
}

function act(action, row) {
  if (!row) return;
  box.addresses.set(row.row, row);
  if (action === "view") viewer.show(row);
  if (action === "select") selection.toggle(query.collection, row, shown.title);
  if (action === "add" && !query.terms.some((term) => term.row === row.row)) box.add({ kind: "row", row: row.row });
  if (action === "similar") {
    begin({ terms: [{ kind: "row", row: row.row }] });
  }
}

// A new query; the filter and the map stay.
function begin(parts) {
  const view = query.view === "map" ? "map" : "";
  query = { ...emptyQuery(query.collection), where: query.where, view, ...parts };
  box.show(query);
  go();
  scrollTo({ top: 0 });
}

// One row, from the grid or from the server.
async function rowOf(number) {
  const known = grid.rows.find((row) => row.row === number) ?? box.addresses.get(number);
  if (known) return known;
  const row = await api.row(query.collection, number);
  box.addresses.set(number, row);
  return row;
}

// Search, and make it an entry of the browser's history: what is typed in one go is one entry.
function go({ draft = false } = {}) {
  if (LISTS.includes(query.view) && !isEmpty(query)) query.view = ""; // a search is no list of these
  const address = addressOf(query, about[0].name);
  const same = address === (location.search || location.pathname);
  const images = remembered(query).images.length > 0;
  if (same && !images && running.done) return; // it is what is shown
  if (!same || images) {
    if (draft && drafting) history.replaceState(remembered(query), "", address);
    else history.pushState(remembered(query), "", address);
  }
  typing = 0;
  drafting = draft;
  run();
}

async function run() {
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  box.tidy();
  views();
  grid.busy(true);
  try {
    const [found] = await Promise.all([page(0, signal), showMap(signal)]);
    const outliers = query.view === "outliers";
    grid.clear(outliers ? "Mean cosine with its nearest" : "Cosine of this one and the query", !outliers);
    problem("");
    describe(found);
    more(found);
    running.done = true;
  } catch (error) {
    failed(error);
  } finally {
    if (!signal.aborted) grid.busy(false);
  }
}

async function page(offset, signal) {
  const started = performance.now();
  const size = Math.min(PAGE, limits.k);
  if (query.view === "outliers") {
    const reply = await api.outliers(query, size, offset, signal);
    return { ...reply, query: "", hits: reply.rows };
  }
  if (query.view === "duplicates") {
    const reply = await api.duplicates(query, Math.min(GROUPS, limits.k), offset, signal);
    return { ...reply, query: "", hits: reply.groups.flatMap((group) => group.rows) };
  }
  if (isEmpty(query)) {
    const reply = await api.browse(query, size, offset, signal);
    return { ...reply, query: "", hits: reply.rows };
  }
  const images = query.terms.filter((term) => term.kind === "image");
  const files = await Promise.all(images.map((term) => api.fitting(imageOf(term).file, limits)));
  const k = Math.min(size, limits.depth - offset);
  const reply = await api.search(query, files, k, offset, signal);
  return { ...reply, milliseconds: performance.now() - started };
}

function more(found) {
  const selected = (row) => selection.has(query.collection, row);
  if (found.groups) {
    for (const group of found.groups) {
      grid.appendGroup(groupTitle(group), group.rows, selected);
      shown.copies.push(...group.rows.slice(1));
    }
    shown.offset += found.groups.length;
    shown.ended = shown.offset >= found.total || !found.groups.length;
  } else {
    grid.append(found.hits, selected);
    shown.offset += Math.min(PAGE, limits.k);
    shown.ended = grid.rows.length >= found.total || !found.hits.length;
    if (!isEmpty(query)) shown.ended ||= shown.offset >= limits.depth;
  }
  panel.found(grid.rows, !isEmpty(query));
  element("next").hidden = shown.ended;
  element("all").hidden = !grid.rows.length;
}

function groupTitle(group) {
  const more = group.count > group.rows.length ? `, the first ${group.rows.length} shown` : "";
  return `${group.count.toLocaleString()} ${here().rows} · cosine ${group.cosine.toFixed(3)}${more}`;
}

function describe(found) {
  shown = { title: found.query, total: found.total, ended: true, offset: 0, copies: [] };
  const title = element("title");
  document.title = "Search";
  if (query.view === "outliers") {
    title.replaceChildren(`The ${here().rows} that are least like any other${filtered(query)}, by the mean cosine with their nearest`);
    document.title = "Outliers";
  } else if (query.view === "duplicates") {
    const groups = found.total === 1 ? "group" : "groups";
    title.replaceChildren(`${found.total.toLocaleString()} ${groups} of ${here().rows} that are nearly the same${filtered(query)}`);
    document.title = "Duplicates";
  } else if (found.query) {
    const what = document.createElement("b");
    what.textContent = titleOf(query);
    const time = found.milliseconds < 1000 ? `${Math.round(found.milliseconds)} ms` : `${(found.milliseconds / 1000).toFixed(1)} s`;
    title.replaceChildren(what, ` in ${found.total.toLocaleString()} ${here().rows}, ${time}`);
    document.title = `${titleOf(query)} · Search`;
  } else {
    title.replaceChildren(`Some of the ${found.total.toLocaleString()} ${here().rows}${filtered(query)}`);
  }
  element("all").textContent = query.view === "duplicates" ? "Select all but the first of each" : "Select these";
  hint(found);
}

// The map of the collection, or of what passes the filter, if it is wanted and not there yet.
async function showMap(signal) {
  const which = JSON.stringify([query.collection, query.where.trim()]);
  if (query.view !== "map") {
    panel.hide();
    return;
  }
  if (panel.open && mapped === which) return;
  const reply = await api.map(query, signal);
  const { collection } = query;
  panel.show(reply, here().pictures ? (row) => addressOfImage(collection, row) : null);
  mapped = which;
}

function addressOfImage(collection, row) {
  return `/api/v1/collections/${encodeURIComponent(collection)}/rows/${row}/image?v=${here().version}`;
}

// The links to the views, each with what is searched for now.
function views() {
  const can = here();
  element("views").hidden = !can.map;
  element("least").hidden = query.view !== "duplicates";
  element("least").querySelector("input").value = query.cosine;
  element("least").querySelector("output").textContent = query.cosine.toFixed(3);
  for (const link of element("views").querySelectorAll("a")) {
    const { view } = link.dataset;
    const other = LISTS.includes(view) ? { ...emptyQuery(query.collection), where: query.where } : query;
    link.href = addressOf({ ...other, view }, about[0].name);
    if (view === query.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function toView(view) {
  if (!here().map) return;
  if (LISTS.includes(view)) query = { ...emptyQuery(query.collection), where: query.where };
  query.view = view;
  box.show(query);
  go();
}

function titleOf(asked) {
  const parts = asked.terms.filter((term) => term.kind === "image").map((term) => term.name);
  for (const term of asked.terms.filter((each) => each.kind === "row")) {
    const row = box.addresses.get(term.row);
    parts.push(`like “${row?.caption || row?.key || `row ${term.row}`}”`);
  }
  if (asked.words.trim()) parts.push(`“${asked.words.trim()}”`);
  const texts = (kind) => asked.terms.filter((term) => term.kind === kind && term.text.trim());
  parts.push(...texts("plus").map((term) => `“${term.text.trim()}”`));
  return parts.join(" + ") + texts("minus").map((term) => ` − “${term.text.trim()}”`).join("") + filtered(asked);
}

const filtered = (asked) => (asked.where.trim() ? ` where ${asked.where.trim()}` : "");

// What to do on a page without a query: some captions to try.
function hint(found) {
  const place = element("hint");
  place.hidden = Boolean(found.query) || query.view !== "";
  if (place.hidden) return;
  const can = here();
  const ways = [can.by_words && "type what you are looking for", can.by_image && "drop an image", "click one of these"];
  const text = ways.filter(Boolean).join(", or ");
  place.replaceChildren(`${text.charAt(0).toUpperCase()}${text.slice(1)}.`);
  const captions = [...new Set(found.hits.map((row) => row.caption).filter((each) => each && each.length < 42))];
  if (!can.by_words || !captions.length) return;
  place.append(" For example: ");
  for (const caption of captions.slice(0, 4)) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "small";
    button.textContent = caption;
    button.addEventListener("click", () => {
      query.words = caption;
      box.show(query);
      go();
    });
    place.append(button);
  }
}

function problem(text) {
  element("problem").hidden = !text;
  element("problem").textContent = text;
}

function failed(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof api.Problem)) console.error(error);
  grid.clear("", false);
  element("next").hidden = true;
  element("all").hidden = true;
  element("hint").hidden = true;
  element("title").textContent = "";
  problem(error.message);
}

async function showMore() {
  if (shown.ended || running.more) return;
  const { signal } = running;
  running.more = true;
  element("next").disabled = true;
  try {
    more(await page(shown.offset, signal));
  } catch (error) {
    if (error.name !== "AbortError") problem(error.message);
  } finally {
    running.more = false;
    element("next").disabled = false;
  }
}

// Take the query from the address: at the start, and when the browser goes back or on.
async function read() {
  drafting = false;
  query = queryOf(location.search, about.map((each) => each.name), history.state);
  adapt();
  if (!here().map) query.view = "";
  for (const term of query.terms.filter((each) => each.kind === "row" && !box.addresses.has(each.row))) {
    const row = await api.row(query.collection, term.row).catch(() => null);
    if (row) box.addresses.set(term.row, row);
  }
  box.show(query);
  await run();
}

// Show what the chosen collection can do.
function adapt() {
  const can = here();
  element("collection").value = can.name;
  element("about").textContent = `${can.count.toLocaleString()} ${can.rows} · ${can.model}`;
  element("about").title = `${can.source}, embedded by ${can.model} in ${can.dimension} dimensions`;
  element("pick").hidden = !can.by_image;
  element("more").hidden = !can.by_words;
  element("less").hidden = !can.by_words;
  element("filters").hidden = !Object.keys(can.columns).length && !query.where;
  element("where").placeholder = Object.entries(can.columns).map(example).slice(0, 2).join(" and ");
  element("columns").replaceChildren(...Object.entries(can.columns).map(([name, kind]) => new Option(kind, named(name))));
  element("words").disabled = !can.by_words;
  if (!can.by_words) element("words").placeholder = "This model reads no words: drop an image";
  if (can.rows !== "texts" && can.problem) problem(`${can.problem}: the data are not where they were.`);
}

// A column as a filter names it.
const named = (name) => (/^[\p{L}_]\w*$/u.test(name) ? name : `\`${name}\``);

const example = ([name, kind]) => (kind === "text" ? `${named(name)} = '…'` : `${named(name)} < 20`);

// Images begin a new query; words that are typed after them are added.
function byImages(files) {
  if (!here().by_image) return;
  begin({ terms: files.slice(0, limits.terms).map(keepImage) });
}

function listen() {
  element("search").addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(typing);
    go({ draft: typing !== 0 });
    drafting = false;
    if (matchMedia("(hover: none)").matches) document.activeElement.blur(); // closes a phone's keyboard
  });
  element("pick").addEventListener("click", () => element("file").click());
  element("file").addEventListener("change", () => {
    byImages([...element("file").files]);
    element("file").value = "";
  });
  element("next").addEventListener("click", showMore);
  element("all").addEventListener("click", () => {
    const rows = query.view === "duplicates" ? shown.copies : grid.rows;
    selection.addAll(query.collection, rows, shown.title);
  });
  element("views").addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return; // another tab
    event.preventDefault();
    toView(link.dataset.view);
  });
  const least = element("least").querySelector("input");
  least.addEventListener("input", () => (element("least").querySelector("output").textContent = Number(least.value).toFixed(3)));
  least.addEventListener("change", () => {
    query.cosine = Number(least.value);
    go();
  });
  element("collection").addEventListener("change", () => {
    query.collection = element("collection").value;
    query.terms = query.terms.filter((term) => term.kind !== "row");
    query.where = ""; // another collection has other columns
    if (!here().map) query.view = "";
    box.addresses.clear();
    adapt();
    box.show(query);
    go();
  });
  element("help").addEventListener("click", () => element("keys").showModal());
  element("theme").addEventListener("click", turn);
  addEventListener("popstate", read);
  addEventListener("keydown", pressed);
  new IntersectionObserver((seen) => seen.some((each) => each.isIntersecting) && showMore(), { rootMargin: "600px" }).observe(element("end"));
  drops();
}

function pressed(event) {
  const writes = event.target.matches("input, select, textarea");
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "ArrowDown" && event.target.id === "words") grid.focusFirst();
  else if (writes) return;
  else if (event.key === "/") element("words").select();
  else if (event.key === "?") element("keys").showModal();
  else if (event.key.toLowerCase() === "m" && here().map) toView(query.view === "map" ? "" : "map");
  else if (event.key.startsWith("Arrow") && event.target === document.body) grid.focusFirst();
  else return;
  event.preventDefault();
}

function drops() {
  const images = (items) => [...items].filter((each) => each.kind === "file" && (each.type === "" || /^(image|video)\//.test(each.type)));
  let depth = 0;
  const veil = (is) => (element("veil").hidden = !is);
  addEventListener("dragenter", (event) => {
    if (!images(event.dataTransfer.items).length) return;
    depth += 1;
    veil(true);
  });
  addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (!depth) veil(false);
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    veil(false);
    const files = images(event.dataTransfer.items).map((item) => item.getAsFile());
    if (files.length) byImages(files);
  });
  addEventListener("paste", (event) => {
    const files = images(event.clipboardData.items).map((item) => item.getAsFile());
    if (!files.length) return;
    event.preventDefault();
    byImages(files);
  });
}

function turn() {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("diptych-theme", document.documentElement.dataset.theme);
  panel.draw(); // in other colours
}

function token() {
  const door = element("door");
  if (!door.open) door.showModal();
  return new Promise((done) => {
    door.querySelector("form").onsubmit = async (event) => {
      event.preventDefault();
      if (await api.enter(element("token").value)) {
        door.close();
        done();
      } else {
        element("wrong").textContent = "This is not the token.";
        element("token").select();
      }
    };
  });
}

async function start() {
  const theme = localStorage.getItem("diptych-theme");
  if (theme) document.documentElement.dataset.theme = theme;
  api.onToken(token);
  element("door").addEventListener("cancel", (event) => event.preventDefault());
  try {
    ({ collections: about, limits } = await api.collections());
  } catch (error) {
    failed(error);
    return;
  }
  element("collection").replaceChildren(...about.map((each) => new Option(each.name)));
  element("collection").hidden = about.length < 2;
  listen();
  await read();
  if (matchMedia("(hover: hover)").matches) element("words").focus();
}

start();
