"use strict";
// Sort a table by the column whose heading is pressed; press again to turn it round.
document.querySelectorAll("table.sorts th button").forEach((button) => {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const table = heading.closest("table");
    const column = [...heading.parentNode.children].indexOf(heading);
    const up = heading.getAttribute("aria-sort") !== "ascending";
    const key = (row) => row.children[column].dataset.sort;
    const order = (a, b) => {
      const [x, y] = [Number(key(a)), Number(key(b))];
      if (Number.isNaN(x) || Number.isNaN(y)) return key(a).localeCompare(key(b));
      return x < y ? -1 : x > y ? 1 : 0;
    };
    const rows = [...table.tBodies[0].rows].sort((a, b) => (up ? order(a, b) : order(b, a)));
    table.tBodies[0].append(...rows);
    heading.parentNode.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
  });
});
// Say what a mark stands for below its figure, where no pointer can hover.
document.querySelectorAll("figure").forEach((figure) => {
  const say = (event) => {
    const mark = event.target.closest("[data-hover]");
    if (mark) figure.querySelector("output").textContent = mark.dataset.hover;
  };
  figure.addEventListener("pointerover", say);
  figure.addEventListener("click", say);
});
