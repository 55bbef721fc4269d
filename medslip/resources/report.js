"use strict";
// The page works without: this sorts tables, and shows a figure in full.
function keyOf(row, column) {
  const cell = row.cells[column];
  if (!cell) return "";
  return cell.dataset.key === undefined ? cell.textContent.trim() : Number(cell.dataset.key);
}

function compare(one, other) {
  if (typeof one === "number" && typeof other === "number") return one - other;
  return String(one).localeCompare(String(other), undefined, { numeric: true });
}

function isMissing(key) {
  return key === "" || key === "–";
}

function sortBy(header) {
  const table = header.closest("table"), body = table.tBodies[0], column = header.cellIndex;
  const falling = header.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const rows = Array.from(body.rows, (row) => ({ row, key: keyOf(row, column) }));
  rows.sort((a, b) => {
    if (isMissing(a.key) || isMissing(b.key)) return isMissing(a.key) - isMissing(b.key);
    return (falling ? -1 : 1) * compare(a.key, b.key);
  });
  body.append(...rows.map((entry) => entry.row));
}

function onPress(element, action) {
  element.tabIndex = 0;
  element.addEventListener("click", action);
  element.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      action();
    }
  });
}

for (const header of document.querySelectorAll("table.sortable > thead th")) {
  onPress(header, () => sortBy(header));
}

const dialog = document.querySelector("dialog");
for (const image of document.querySelectorAll("figure > img")) {
  onPress(image, () => {
    dialog.firstElementChild.src = image.src;
    dialog.firstElementChild.alt = image.alt;
    dialog.showModal();
  });
}
dialog.addEventListener("click", () => dialog.close());
