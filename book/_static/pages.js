// Paper is light, whichever theme is on the screen.
matchMedia("print").addEventListener("change", ({ matches }) => {
  const { dataset } = document.documentElement;
  if (matches) dataset.screenTheme = dataset.theme;
  dataset.theme = matches ? "light" : dataset.screenTheme;
});

document.addEventListener("DOMContentLoaded", () => {
  // A click on a figure opens the picture itself, where a phone can enlarge it.
  for (const picture of document.querySelectorAll("main figure img")) {
    const link = document.createElement("a");
    link.href = picture.src;
    picture.replaceWith(link);
    link.append(picture);
  }
  // A table, formula or line of code that is wider than the page fades at the edge where it goes on, and scrolls by keyboard too.
  for (const wide of document.querySelectorAll("main :is(pre, .cell_output table, .pst-scrollable-table-container, mjx-container[display])")) {
    const mark = () => {
      const hidden = wide.scrollWidth - wide.clientWidth;
      wide.classList.toggle("cut", wide.scrollLeft < hidden - 2);
      if (hidden > 2) wide.tabIndex = 0;
    };
    wide.addEventListener("scroll", mark, { passive: true });
    new ResizeObserver(mark).observe(wide);
  }
});
