// Tables of class "sortable": the head of a column becomes a button that sorts by it, numbers by size.
document.addEventListener("DOMContentLoaded", () => {
  const key = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = text.replace("−", "-").match(/^[-+]?[\d,]*\.?\d+/);
    return number ? [0, Number(number[0].replaceAll(",", ""))] : [text === "" ? 2 : 1, text];
  };
  // Numbers, then text, then empty cells, whichever the direction.
  const compare = (a, b, sign) =>
    a[0] - b[0] || sign * (typeof a[1] === "number" ? a[1] - b[1] : a[1].localeCompare(b[1]));
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      if (!head.textContent.trim()) return; // a button without a name says nothing
      const button = document.createElement("button");
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const ascending = head.getAttribute("aria-sort") === "descending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => compare(key(a, column), key(b, column), ascending ? 1 : -1));
        table.tBodies[0].append(...rows);
      });
    });
  }
});
