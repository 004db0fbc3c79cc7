// Keyboard access: a box that scrolls sideways (a wide table, equation or diagram) can be reached with Tab, others cannot.
(() => {
  const boxes = ".pst-scrollable-table-container, div.text_html, div.math, .mtl-scroll, .bd-article pre";
  const mark = () => document.querySelectorAll(boxes).forEach((box) => {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else if (!box.matches("pre")) box.removeAttribute("tabindex");
  });
  addEventListener("load", () => setTimeout(mark, 50));
  addEventListener("resize", mark);
  addEventListener("toggle", mark, true);  // a folded cell was opened
})();

// Search from file:// finds pages as it does from a server, but may not read them for an excerpt.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS === "object") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
