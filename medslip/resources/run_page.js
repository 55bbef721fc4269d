"use strict";
// The page works without this script, which sorts tables and enlarges figures.
function sortBy(header) {
  const body = header.closest("table").tBodies[0], column = header.cellIndex;
  const falling = header.getAttribute("aria-sort") === "ascending";
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const textOf = (row) => row.cells[column].textContent.trim();
  const last = (row) => /^(mean|all findings)/.test(row.textContent.trim());
  const rows = Array.from(body.rows).sort((a, b) => {
    if (last(a) !== last(b)) return last(a) - last(b);
    const [one, other] = [textOf(a), textOf(b)];
    if (one === "-" || other === "-") return (one === "-") - (other === "-");
    const numbers = [one, other].map((text) => parseFloat(text.replaceAll(",", "")));
    const order = numbers.some(Number.isNaN) ? one.localeCompare(other) : numbers[0] - numbers[1];
    return falling ? -order : order;
  });
  body.append(...rows);
}

function onPress(element, action) {
  element.tabIndex = 0;
  element.addEventListener("click", action);
  element.addEventListener("keydown", (event) => {
    if (event.key === "Enter") action();
  });
}

for (const header of document.querySelectorAll("table > thead th")) onPress(header, () => sortBy(header));
const dialog = document.querySelector("dialog");
for (const image of document.querySelectorAll("figure > img")) {
  onPress(image, () => {
    dialog.firstElementChild.src = image.src;
    dialog.showModal();
  });
}
dialog.addEventListener("click", () => dialog.close());
