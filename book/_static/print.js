// Paper is light, whichever theme is on the screen.
matchMedia("print").addEventListener("change", ({ matches }) => {
  const { dataset } = document.documentElement;
  if (matches) dataset.screenTheme = dataset.theme;
  dataset.theme = matches ? "light" : dataset.screenTheme;
});
