// What is searched for, and how the address of the page holds it.
//
// A query is { collection, words, terms, where, view, cosine }: `words` is the text of the search box,
// `where` a filter on columns, `view` one of VIEWS, `cosine` what joins duplicates, and a term is
// { kind: "plus" | "minus", text }, { kind: "row", row } or { kind: "image", id, name }. Images stay in
// the browser: they are kept by an id, which the history of the tab remembers.

export const VIEWS = ["", "map", "duplicates", "outliers"];
const COSINE = 0.95; // unless another one is chosen

const images = new Map();
let lastId = 0;

export function keepImage(file) {
  lastId += 1;
  images.set(lastId, { file, address: URL.createObjectURL(file) });
  return { kind: "image", id: lastId, name: file.name || "image" };
}

export function imageOf(term) {
  return images.get(term.id);
}

export function emptyQuery(collection) {
  return { collection, words: "", terms: [], where: "", view: "", cosine: COSINE };
}

export function isEmpty(query) {
  return !query.words.trim() && !query.terms.some((term) => term.kind !== "minus" && filled(term));
}

export function filled(term) {
  return term.kind === "plus" || term.kind === "minus" ? term.text.trim() !== "" : true;
}

export function addressOf(query, first) {
  const parameters = new URLSearchParams();
  if (query.collection !== first) parameters.set("in", query.collection);
  if (query.view) parameters.set("view", query.view);
  if (query.view === "duplicates" && query.cosine !== COSINE) parameters.set("cosine", query.cosine);
  if (query.words.trim()) parameters.set("q", query.words.trim());
  for (const term of query.terms.filter(filled)) {
    if (term.kind === "row") parameters.append("row", term.row);
    else if (term.kind !== "image") parameters.append(term.kind, term.text.trim());
  }
  if (query.where.trim()) parameters.set("where", query.where.trim());
  const text = parameters.toString();
  return text ? `?${text}` : location.pathname;
}

export function queryOf(search, names, remembered) {
  const parameters = new URLSearchParams(search);
  const asked = parameters.get("in");
  const query = emptyQuery(names.includes(asked) ? asked : names[0]);
  query.words = parameters.get("q") ?? "";
  query.where = parameters.get("where") ?? "";
  if (VIEWS.includes(parameters.get("view"))) query.view = parameters.get("view");
  const cosine = Number(parameters.get("cosine"));
  if (cosine > 0 && cosine <= 1) query.cosine = cosine;
  for (const term of remembered?.images ?? []) if (images.has(term.id)) query.terms.push(term);
  for (const [name, value] of parameters) {
    if (name === "plus" || name === "minus") query.terms.push({ kind: name, text: value });
    if (name === "row" && /^\d{1,15}$/.test(value)) query.terms.push({ kind: "row", row: Number(value) });
  }
  return query;
}

export function remembered(query) {
  return { images: query.terms.filter((term) => term.kind === "image") };
}
