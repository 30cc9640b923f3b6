// Requests to the server.

const ROOT = "/api/v1";
let askForToken = async () => {};

export class Problem extends Error {}

export function onToken(ask) {
  askForToken = ask;
}

export async function enter(token) {
  const headers = { "content-type": "application/json" };
  const reply = await fetch(`${ROOT}/session`, { method: "POST", headers, body: JSON.stringify({ token }) });
  return reply.ok;
}

export const collections = () => request("/collections");

export const browse = (query, k, offset, signal) => of(query, "rows", [["k", k], ["offset", offset]], signal);

export const outliers = (query, k, offset, signal) => of(query, "outliers", [["k", k], ["offset", offset]], signal);

export function duplicates(query, k, offset, signal) {
  return of(query, "duplicates", [["k", k], ["offset", offset], ["cosine", query.cosine]], signal);
}

export const map = (query, signal) => of(query, "map", [], signal);

function of(query, what, fields, signal) {
  const all = new URLSearchParams([...fields, ...filter(query)]);
  return request(`/collections/${encodeURIComponent(query.collection)}/${what}?${all}`, { signal });
}

const filter = (query) => (query.where.trim() ? [["where", query.where.trim()]] : []);

export function row(collection, number) {
  return request(`/collections/${encodeURIComponent(collection)}/rows/${number}`);
}

// `files` are the images of the query; each page of hits sends them again.
export async function search(query, files, k, offset, signal) {
  const words = query.words.trim();
  const texts = (kind) => query.terms.filter((term) => term.kind === kind && term.text.trim());
  const fields = [
    ["collection", query.collection],
    ["k", k],
    ["offset", offset],
    ...(words ? [["plus", words]] : []),
    ...texts("plus").map((term) => ["plus", term.text.trim()]),
    ...texts("minus").map((term) => ["minus", term.text.trim()]),
    ...query.terms.filter((term) => term.kind === "row").map((term) => ["row", term.row]),
    ...filter(query),
  ];
  if (!files.length) return single(await request(`/search?${new URLSearchParams(fields)}`, { signal }));
  const form = () => {
    const body = new FormData();
    for (const [name, value] of fields) body.append(name, value);
    for (const file of files) body.append("image", file, "image");
    return body;
  };
  return single(await request("/search/image", { method: "POST", signal }, form));
}

function single(reply) {
  return { ...reply, ...reply.results[0] };
}

async function request(path, settings = {}, form = null) {
  for (let tries = 0; ; tries += 1) {
    let reply;
    try {
      reply = await fetch(ROOT + path, form ? { ...settings, body: form() } : settings);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem("The server does not answer. Is it still running?");
    }
    if (reply.ok) return reply.json();
    if (reply.status === 401) {
      await askForToken();
      continue;
    }
    if (reply.status === 503 && tries < 4) {
      await pause(1000 * Number(reply.headers.get("retry-after") ?? 1) * (0.7 + 0.6 * Math.random()));
      continue;
    }
    const answer = await reply.json().catch(() => ({}));
    throw new Problem(sentence(answer.error ?? `The server answered ${reply.status}`));
  }
}

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

function sentence(text) {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}

// An image that is larger than the server takes, drawn smaller; any other one as it is.
export async function fitting(file, limits) {
  const most = 0.9 * limits.body;
  try {
    const bitmap = await createImageBitmap(file);
    const pixels = bitmap.width * bitmap.height;
    if (file.size <= most && pixels <= limits.pixels) return file;
    const scale = Math.min(1, 2048 / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    return await new Promise((done) => canvas.toBlob((blob) => done(blob ?? file), "image/jpeg", 0.92));
  } catch {
    return file; // a format that this browser does not show: the server may
  }
}
