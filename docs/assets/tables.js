/* Tables that the reader sorts by a column, and filters where they are long. */
"use strict";
(() => {
  const SORTED_FROM = 8; // rows
  const FILTERED_FROM = 12;

  /** What a cell is sorted by: the number that it begins with, or that follows its last arrow; else its text. */
  const keyOf = (cell) => {
    const text = cell ? cell.textContent.trim() : "";
    if (text === "" || text === "–" || text === "—") return null;
    const found = text.split("→").pop().trim().match(/^[<>≤≥±]?\s*([+\-−]?\d[\d,]*(?:\.\d+)?(?:e[+\-−]?\d+)?)/i);
    return found ? Number(found[1].replace(/−/g, "-").replace(/,/g, "")) : text.toLowerCase();
  };

  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a === "number" || typeof b === "number") return typeof a === "number" ? -1 : 1;
    return a.localeCompare(b);
  };

  const sort = (table, column, descending) => {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, key: keyOf(row.cells[column]) }));
    rows.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null); // empty cells last
      return descending ? compare(b.key, a.key) : compare(a.key, b.key);
    });
    body.append(...rows.map(({ row }) => row));
  };

  const makeSortable = (table) => {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      if (!head.textContent.trim()) return;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.title = "Sort by this column";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const descending = head.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        sort(table, column, descending);
      });
    });
  };

  const makeFilter = (table) => {
    const input = document.createElement("input");
    input.type = "search";
    input.className = "filter";
    input.placeholder = "Filter rows, e.g. " + (table.tBodies[0].rows[0].cells[0].textContent.trim() || "a word");
    input.setAttribute("aria-label", "Show only the rows that hold this text");
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of table.tBodies[0].rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
    });
    (table.closest(".md-typeset__scrollwrap") || table).before(input);
  };

  const begin = () => {
    for (const table of document.querySelectorAll(".md-content table:not([class])")) {
      const rows = table.tHead && table.tBodies[0] ? table.tBodies[0].rows.length : 0;
      if (rows >= FILTERED_FROM) makeFilter(table);
      if (rows >= SORTED_FROM) makeSortable(table);
    }
  };
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", begin);
  else begin();
})();
