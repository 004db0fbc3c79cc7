// The slider of "The weighted sum": which point of a front does a weight choose? The points come from the notebook, as JSON in the
// page; nothing is stored here. In a box <div class="mtl-weight-slider" data-points="ID"> it puts a slider, and a panel per front.
(() => {
  const SVG = "http://www.w3.org/2000/svg", SIZE = 240, PAD = 30;

  const make = (parent, name, attributes = {}, text = "") => {
    const svg = parent.namespaceURI === SVG || name === "svg";
    const node = svg ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    return parent.appendChild(node);
  };

  // The point with the smallest w L1 + (1 - w) L2; of equal ones the first.
  const choose = (points, w) => {
    let best = 0, least = Infinity;
    points.forEach(([one, two], n) => {
      const sum = w * one + (1 - w) * two;
      if (sum < least - 1e-12) [best, least] = [n, sum];
    });
    return best;
  };

  const panel = (parent, front) => {
    const figure = make(parent, "figure", { style: "margin:0;flex:1 1 15rem;max-width:20rem" });
    const svg = make(figure, "svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, role: "img", width: "100%", style: "overflow:hidden" });
    const caption = make(figure, "figcaption", { style: "font-family:var(--mtl-sans);font-size:.9rem;margin:0" });
    const top = Math.max(...front.points.flat()) * 1.08;
    const x = (v) => PAD + (v / top) * (SIZE - PAD - 6), y = (v) => SIZE - PAD - (v / top) * (SIZE - PAD - 6);
    const at = ([one, two]) => `${x(one).toFixed(1)},${y(two).toFixed(1)}`;
    const text = { fill: "var(--mtl-text)", "font-size": 13, "font-family": "var(--mtl-sans)",
      stroke: "var(--mtl-page)", "stroke-width": 4, "paint-order": "stroke" };
    make(svg, "path", { d: `M${PAD},6V${SIZE - PAD}H${SIZE - 6}`, fill: "none", stroke: "var(--mtl-context)" });
    make(svg, "polyline", { points: front.points.map(at).join(" "), fill: "none", stroke: "var(--mtl-context)", "stroke-width": 3 });
    const line = make(svg, "line", { stroke: "var(--mtl-accent)", "stroke-width": 1.5 });
    make(svg, "text", { ...text, x: SIZE - 8, y: SIZE - 10, "text-anchor": "end" }, "L₁");  // above the line, with a rim
    make(svg, "text", { ...text, x: 6, y: 18 }, "L₂");
    const dot = make(svg, "circle", { r: 6, fill: "var(--mtl-accent)" });
    return (w) => {
      const n = choose(front.points, w), [one, two] = front.points[n], sum = w * one + (1 - w) * two;
      // All points with this sum lie on a line; its ends, far outside of the panel, are cut off by the frame.
      const along = [1 - w, -w], reach = 3 * top / Math.hypot(...along);
      const ends = [-reach, reach].map((r) => [one + r * along[0], two + r * along[1]]);
      line.setAttribute("x1", x(ends[0][0])); line.setAttribute("y1", y(ends[0][1]));
      line.setAttribute("x2", x(ends[1][0])); line.setAttribute("y2", y(ends[1][1]));
      dot.setAttribute("cx", x(one)); dot.setAttribute("cy", y(two));
      const words = `${front.name}: L₁ = ${one.toFixed(3)}, L₂ = ${two.toFixed(3)}, weighted sum ${sum.toFixed(3)}`;
      caption.textContent = words;
      svg.setAttribute("aria-label", `A curve of possible pairs of losses and the line that touches it. ${words}`);
      figure.dataset.point = n;
    };
  };

  const start = (box) => {
    const source = document.getElementById(box.dataset.points);
    if (!source || box.firstElementChild) return;
    const fronts = JSON.parse(source.textContent), id = `${box.dataset.points}-weight`;
    const control = make(box, "p", { style: "font-family:var(--mtl-sans);display:flex;flex-wrap:wrap;gap:.75rem;align-items:center" });
    const label = make(control, "label", { for: id }, "Weight λ₁ of the first task");
    const slider = make(control, "input", { id, type: "range", min: 0.01, max: 0.99, step: 0.01, value: 0.5,
      style: "flex:1 1 12rem;min-height:1.75rem;accent-color:var(--mtl-accent)" });
    const shown = make(control, "output", { for: id, style: "min-width:11rem;font-variant-numeric:tabular-nums" });
    const panels = make(box, "div", { style: "display:flex;flex-wrap:wrap;gap:1rem;justify-content:center" });
    const draw = fronts.map((front) => panel(panels, front));
    const update = () => {
      const w = Number(slider.value), words = `λ₁ = ${w.toFixed(2)}, λ₂ = ${(1 - w).toFixed(2)}`;
      shown.textContent = words;
      slider.setAttribute("aria-valuetext", words);
      draw.forEach((one) => one(w));
    };
    label.style.margin = 0;
    slider.addEventListener("input", update);
    update();
  };

  const all = () => document.querySelectorAll(".mtl-weight-slider").forEach(start);
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", all); else all();
})();
