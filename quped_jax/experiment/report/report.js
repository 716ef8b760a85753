"use strict";

// Lets readers sort tables by buttons in the headings of their columns.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(table, heads, column));
  });
}

function sort(table, heads, column) {
  const head = heads[column];
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of heads) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [key(row.cells[column]), row]);
  rows.sort(([a], [b]) => order(a, b, down));
  body.append(...rows.map(([, row]) => row));
}

// A number, null for a dash or nothing, or text.
function key(cell) {
  const text = cell.textContent.trim();
  if (text === "" || text === "\u2013") return null;
  const number = Number(text.split(/[ [(]/)[0].replaceAll(",", ""));
  return Number.isNaN(number) ? text : number;
}

// What is missing comes last, whichever way the others go.
function order(a, b, down) {
  if (a === null || b === null) return (a === null) - (b === null);
  const numbers = typeof a === "number" && typeof b === "number";
  const found = numbers ? a - b : compare(String(a), String(b));
  return down ? -found : found;
}

const { compare } = new Intl.Collator("en", { numeric: true });
