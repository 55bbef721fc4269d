"use strict";
const $ = (id) => document.getElementById(id);
const words = (name) => name.replaceAll("_", " ").replace("tail abnorm obs", "other abnormality").replace(/ unspec$/, "");
let about = null;
let image = null; // the bytes on the page; each question brings them along, as the server keeps none
let turn = 0; // an answer to an earlier question comes too late

function element(tag, properties = {}, ...inside) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...inside);
  return made;
}

function complain(message) {
  $("error").textContent = message.charAt(0).toUpperCase() + message.slice(1);
  $("error").hidden = !message;
  if (message) $("error").scrollIntoView({ block: "nearest" });
}

async function ask(path, body, waiting) {
  const mine = ++turn;
  complain("");
  $("status").textContent = waiting;
  document.body.classList.add("busy");
  try {
    const answer = await fetch(path, body && { method: "POST", body });
    const content = await answer.json();
    if (!answer.ok) throw new Error(content.error);
    return mine === turn ? content : null;
  } catch (error) {
    const lost = error instanceof TypeError || error instanceof SyntaxError;
    if (mine === turn) complain(lost ? "No answer: is the program that shows this page still running?" : error.message);
    return null;
  } finally {
    if (mine === turn) {
      $("status").textContent = "";
      document.body.classList.remove("busy");
    }
  }
}

function row(name, probability, query = name) {
  const bar = element("i");
  bar.style.width = `${100 * probability}%`;
  const button = element(
    "button",
    { className: "finding", type: "button" },
    element("span", { className: "name" }, words(name)),
    element("span", { className: "bar" }, bar),
    element("span", { className: "number" }, probability.toFixed(2)),
  );
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => ground(query, button));
  return button;
}

function show(stream, map, caption) {
  const figure = $(stream);
  figure.hidden = !caption;
  figure.querySelector(".map").hidden = !map || !$("show").checked;
  figure.querySelector(".map").dataset.filled = map ? "yes" : "";
  if (map) figure.querySelector(".map").src = map;
  figure.querySelector("figcaption").replaceChildren(...(caption || []));
  $("views").classList.toggle("one", $("anatomy").hidden);
}

function press(button) {
  for (const other of document.querySelectorAll(".finding")) other.setAttribute("aria-pressed", other === button);
}

function clear() {
  image = null; // what is seen of one image must not stay beside a message about another
  turn++;
  $("status").textContent = "";
  document.body.classList.remove("busy");
  document.querySelector("main").classList.remove("filled");
  for (const id of ["views", "findings", "reading"]) $(id).hidden = true;
  for (const picture of document.querySelectorAll(".view img")) picture.removeAttribute("src");
}

async function classify(file) {
  clear();
  if (file.size > about.megabytes * 2 ** 20) {
    complain(`This file has more than ${about.megabytes} MB; make it smaller.`);
    return;
  }
  const bytes = await file.arrayBuffer().catch(() => null);
  if (bytes === null) {
    complain("This file cannot be read; choose it again.");
    return;
  }
  const found = await ask("classify", bytes, "Reading the image ...");
  if (!found) return;
  image = bytes;
  for (const film of document.querySelectorAll(".film")) film.src = found.image;
  show("pathology", null, ["Choose a finding to see where the model looks for it."]);
  show("anatomy", null, null);
  document.querySelector("main").classList.add("filled");
  for (const id of ["views", "findings"]) $(id).hidden = false;
  const groups = Object.entries(about.groups).map(([group, names]) => {
    const ranked = names.map((name) => [name, found.probabilities[name]]).sort((a, b) => b[1] - a[1]);
    const open = !about.folded.includes(group);
    return element("details", { open }, element("summary", {}, group), ...ranked.map(([name, value]) => row(name, value)));
  });
  $("groups").replaceChildren(...groups);
}

async function ground(query, button) {
  const found = await ask(`ground?query=${encodeURIComponent(query)}`, image, `Looking for ${words(query)} ...`);
  if (!found) return;
  if (!button) {
    let own = $("own");
    if (!own) {
      own = element("details", { id: "own", open: true }, element("summary", {}, "Your queries"));
      $("groups").prepend(own);
    }
    button = row(query, found.probability);
    own.firstElementChild.after(button);
  }
  press(button);
  const paired = found.anatomies.map(([name, value]) => `${words(name)} ${value.toFixed(2)}`).join(", ");
  const title = `${words(query)}: ${found.probability.toFixed(2)}`;
  show("pathology", found.pathology, [element("b", {}, "Pathology stream"), element("br"), title]);
  show("anatomy", found.anatomy, found.anatomy && [element("b", {}, "Anatomy stream"), element("br"), `paired with ${paired}`]);
  $("reading").hidden = false;
}

function listen() {
  const drop = $("drop");
  $("file").addEventListener("change", () => {
    if ($("file").files.length) classify($("file").files[0]);
    $("file").value = "";
  });
  for (const kind of ["dragover", "dragleave", "drop"])
    addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) classify(event.dataTransfer.files[0]);
    });
  $("show").addEventListener("change", () => {
    for (const map of document.querySelectorAll(".map")) map.hidden = !$("show").checked || !map.dataset.filled;
  });
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    ground($("query").value.trim(), null);
  });
}

(async () => {
  about = await ask("about", null, "");
  if (!about) return;
  $("query").maxLength = about.longest_query;
  $("no-text").hidden = about.takes_text;
  $("examples").hidden = !about.examples;
  for (let k = 0; k < about.examples; k++) {
    const button = element("button", { type: "button" }, `${k + 1}`);
    button.setAttribute("aria-label", `Example ${k + 1}`);
    button.addEventListener("click", async () => classify(await (await fetch(`examples/${k}`)).blob()));
    $("examples").append(button);
  }
  listen();
})();
