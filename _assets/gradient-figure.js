// The figure of the chapter "Conflicting gradients": two gradients that the reader moves, every rule's direction beside them.
// It fills each <div data-figure="gradients"> of a page. The rules are the chapter's closed forms for two tasks; a test compares
// them with mtl_ref/balancing.py. Nothing is asked from another host, and without this script the page shows a still figure.
(() => {
  "use strict";
  const RESOLUTION = 3e-7; // the package's: unit gradients that differ by less count as parallel
  const clip = (value, low, high) => Math.min(Math.max(value, low), high);

  // Each rule maps a = |g1|², b = <g1, g2>, c = |g2|² (both gradients not zero) to the weights of g1 and g2, or to null.
  // side is |g1 x g2| = sqrt(det G), which the figure knows more exactly than a c - b².
  const RULES = {
    "plain sum": () => [1, 1],
    "MGDA": ({ a, b, c }) => {
      const width = a + c - 2 * b;
      const first = width > 0 ? clip((c - b) / width, 0, 1) : 0.5;
      return [first, 1 - first];
    },
    "PCGrad": ({ a, b, c }) => [1 - Math.min(b, 0) / a, 1 - Math.min(b, 0) / c],
    "UPGrad": ({ a, b, c }) => [(1 - Math.min(b, 0) / a) / 2, (1 - Math.min(b, 0) / c) / 2],
    "GradVac": ({ a, b, c, side, target }) => {
      const cosine = b / Math.sqrt(a * c), sine = side / Math.sqrt(a * c);
      if (!(cosine < target)) return [1, 1];
      const pull = (target * sine) / Math.sqrt(1 - target * target) - cosine;
      return [1 + pull * Math.sqrt(c / a), 1 + pull * Math.sqrt(a / c)];
    },
    "CAGrad": ({ a, b, c, side, ball }) => {
      const width = a + c - 2 * b;
      const radius = (ball * Math.sqrt(Math.max(a + c + 2 * b, 0))) / 2;
      if (width <= 0) return [(1 + ball) / 2, (1 + ball) / 2]; // equal gradients
      if (radius <= 1e-15 * Math.sqrt(Math.max(a, c))) return [0.5, 0.5]; // the mean is zero, or c is
      const tilt = -(a - c) / 2 / radius, room = width - tilt * tilt;
      const first = room > 0 ? clip(((tilt * side) / Math.sqrt(room) - (b - c)) / width, 0, 1) : tilt > 0 ? 1 : 0;
      const size = Math.sqrt(Math.max(width * first * first + 2 * (b - c) * first + c, 0));
      return [0.5 + (radius * first) / size, 0.5 + (radius * (1 - first)) / size];
    },
    "IMTL-G": ({ a, c }) => {
      const [p, q] = [Math.sqrt(a), Math.sqrt(c)];
      return [q / (p + q), p / (p + q)];
    },
    "Nash-MTL": ({ a, b, c }) => {
      const [p, q] = [Math.sqrt(a), Math.sqrt(c)];
      const agreement = 1 + b / (p * q);
      if (agreement <= RESOLUTION * RESOLUTION) return null; // no direction improves both
      return [1 / (p * Math.sqrt(agreement)), 1 / (q * Math.sqrt(agreement))];
    },
    "Aligned-MTL": ({ a, b, c, side }) => {
      if (side <= RESOLUTION * Math.sqrt(a * c)) { // one principal direction only: it keeps its length
        const [p, q] = [Math.sqrt(a), Math.sign(b) * Math.sqrt(c)];
        return [(p * (p + q)) / (a + c), (q * (p + q)) / (a + c)];
      }
      const total = Math.sqrt(a + c + 2 * side), longest = (total + Math.sqrt(Math.max(a + c - 2 * side, 0))) / 2;
      return [(c + side - b) / (longest * total), (a + side - b) / (longest * total)];
    },
  };
  // What the rules do with one gradient that is zero; [weight of the zero one, weight of the other one of length l].
  const WITH_ZERO = {
    "plain sum": () => [1, 1], "MGDA": () => [1, 0], "PCGrad": () => [1, 1], "UPGrad": () => [0.5, 0.5], "GradVac": () => [1, 1],
    "CAGrad": () => [0.5, 0.5], "IMTL-G": () => [0, 1], "Nash-MTL": (l) => [0, 1 / l], "Aligned-MTL": () => [0, 1],
  };

  // All rules for two gradients: {name: {weights, direction} or null}.
  function directions(first, second, { ball = 0.5, target = 0 } = {}) {
    const dot = (u, v) => u[0] * v[0] + u[1] * v[1];
    const gram = { a: dot(first, first), b: dot(first, second), c: dot(second, second), ball, target };
    gram.side = Math.abs(first[0] * second[1] - first[1] * second[0]);
    const found = {};
    for (const [name, rule] of Object.entries(RULES)) {
      let weights = null;
      if (gram.a && gram.c) weights = rule(gram);
      else if (gram.a) weights = WITH_ZERO[name](Math.sqrt(gram.a)).reverse();
      else if (gram.c) weights = WITH_ZERO[name](Math.sqrt(gram.c));
      found[name] = weights && { weights, direction: [0, 1].map((k) => weights[0] * first[k] + weights[1] * second[k]) };
    }
    return found;
  }
  window.mtlGradientFigure = { directions };

  const STYLE = `
    .mtl-gradients { font: 400 .9375rem/1.4 var(--mtl-sans); margin: 1.5rem 0; color: var(--mtl-text); }
    .mtl-gradients svg { display: block; width: 100%; max-width: 34rem; height: auto; margin: 0 auto; overflow: visible; }
    .mtl-gradients svg text { font: 400 12px var(--mtl-sans); fill: var(--mtl-text); }
    .mtl-gradients [role=slider] { cursor: grab; touch-action: none; }
    .mtl-gradients [role=slider]:focus { outline: none !important; }
    .mtl-gradients [role=slider]:focus-visible .mtl-ring { stroke: var(--mtl-accent); }
    .mtl-gradients .mtl-controls { display: flex; flex-wrap: wrap; gap: .4rem .6rem; align-items: center; margin: .6rem 0; }
    .mtl-gradients button { font: inherit; min-height: 2rem; padding: .15rem .7rem; color: var(--mtl-text); background: var(--mtl-surface);
      border: 1px solid var(--mtl-rule-strong); border-radius: 5px; cursor: pointer; }
    .mtl-gradients label { display: inline-flex; align-items: center; gap: .5rem; min-height: 2rem; }
    .mtl-gradients input { accent-color: var(--mtl-accent); width: 7.5rem; height: 1.6rem; }
    .mtl-gradients .mtl-said { margin: .5rem 0; min-height: 2.8em; }
    .mtl-gradients table { width: 100%; max-width: 34rem; margin: 0 auto; font-size: .84rem; }
    .mtl-gradients table :is(th, td) { padding: .15rem .2rem !important; text-align: right; }
    .mtl-gradients table tbody th { text-align: left; font-weight: 400; white-space: nowrap; }
    .mtl-gradients td.mtl-worse { font-weight: 620; text-decoration: underline; }
    .mtl-gradients .mtl-swatch { display: inline-block; width: .9rem; border-top: 3px solid; vertical-align: middle; margin-right: .35rem; }`;
  const LOOK = { // colour and dash of each rule's arrow; rules with one direction share a look
    "plain sum": ["--mtl-context", "6 3"], "MGDA": ["--mtl-rating", ""], "PCGrad": ["--mtl-ink", ""], "UPGrad": ["--mtl-ink", "2 3"],
    "GradVac": ["--mtl-ink", "8 3"], "CAGrad": ["--mtl-price", ""], "IMTL-G": ["--mtl-return", ""], "Nash-MTL": ["--mtl-return", "2 3"],
    "Aligned-MTL": ["--mtl-accent", "8 3"],
  };
  const STARTS = {
    "Conflict": [[3.2, 0], [-0.4, 0.8]], "Equal lengths": [[2, 0], [-1.2, 1.6]], "Agreement": [[3.2, 0], [0.4, 0.8]],
    "Opposite": [[2.4, 0], [-1.2, 0]],
  };
  const UNIT = 27, REACH = 3.6, RING = 104, CENTRE = [190, 122], HEIGHT = 244;
  const signed = (value, digits = 2) => value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "\u2212");

  function make(name, attributes = {}, text = "", parent = null) {
    const drawn = /^(svg|g|line|path|circle|text|polygon)$/.test(name);
    const made = drawn ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }

  function arrow(parent, tip, colour, dash, width) {
    const [dx, dy] = [tip[0] - CENTRE[0], tip[1] - CENTRE[1]], length = Math.hypot(dx, dy);
    if (length < 1) return;
    const [ux, uy] = [dx / length, dy / length], base = [tip[0] - 9 * ux, tip[1] - 9 * uy];
    const style = `stroke: var(${colour}); stroke-width: ${width}; stroke-dasharray: ${dash || "none"}`;
    make("line", { x1: CENTRE[0], y1: CENTRE[1], x2: base[0], y2: base[1], style }, "", parent);
    const corners = [tip, [base[0] - 4 * uy, base[1] + 4 * ux], [base[0] + 4 * uy, base[1] - 4 * ux]];
    make("polygon", { points: corners.map((p) => p.join()).join(" "), style: `fill: var(${colour})` }, "", parent);
  }

  // Labels of one side of the ring, one below the other, none nearer than a line to the next.
  function spread(labels) {
    labels.sort((one, other) => one.y - other.y);
    for (let k = 1; k < labels.length; k++) labels[k].y = Math.max(labels[k].y, labels[k - 1].y + 14);
    const over = labels.length ? Math.max(labels.at(-1).y - (HEIGHT - 6), 0) : 0;
    labels.forEach((label) => { label.y -= over; });
    for (let k = labels.length - 2; k >= 0; k--) labels[k].y = Math.min(labels[k].y, labels[k + 1].y - 14);
  }

  function build(box) {
    const state = { tips: STARTS.Conflict.map((tip) => [...tip]), ball: 0.5, target: 0 };
    box.replaceChildren();
    box.classList.add("mtl-gradients");
    const plane = make("svg", { viewBox: `0 0 380 ${HEIGHT}`, role: "group", "aria-label": "Plane with two movable gradients" }, "", box);
    const ground = make("g", { "aria-hidden": "true" }, "", plane);
    const names = ["g\u2081, click", "g\u2082, purchase"], colours = ["--mtl-click", "--mtl-purchase"];
    const handles = names.map((name, which) => {
      const handle = make("g", {
        role: "slider", tabindex: "0", "aria-label": `Tip of the gradient ${name}`, "aria-roledescription": "movable arrow tip",
        "aria-valuemin": -REACH, "aria-valuemax": REACH, "data-task": which + 1 }, "", plane);
      make("circle", { r: 15, style: "fill: transparent" }, "", handle);
      make("circle", { r: 11, class: "mtl-ring", style: "fill: none; stroke-width: 2.5" }, "", handle);
      make("circle", { r: 7, style: `fill: var(${colours[which]}); stroke: var(--mtl-page); stroke-width: 1.5` }, "", handle);
      handle.addEventListener("pointerdown", (event) => { handle.setPointerCapture(event.pointerId); handle.focus(); event.preventDefault(); });
      handle.addEventListener("pointermove", (event) => {
        if (!handle.hasPointerCapture(event.pointerId)) return;
        const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(plane.getScreenCTM().inverse());
        move(which, (place.x - CENTRE[0]) / UNIT, (CENTRE[1] - place.y) / UNIT);
      });
      handle.addEventListener("keydown", (event) => {
        const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
        if (!way) return;
        event.preventDefault();
        const step = event.shiftKey ? 0.5 : 0.1;
        move(which, state.tips[which][0] + step * way[0], state.tips[which][1] + step * way[1]);
      });
      return handle;
    });
    const controls = make("div", { class: "mtl-controls", role: "group", "aria-label": "Positions and settings" }, "", box);
    for (const [name, tips] of Object.entries(STARTS)) {
      make("button", { type: "button" }, name, controls).addEventListener("click", () => {
        state.tips = tips.map((tip) => [...tip]);
        draw();
      });
    }
    const setting = (key, text, low, high) => {
      const label = make("label", {}, text, controls);
      const input = make("input", { type: "range", min: low, max: high, step: 0.1, value: state[key] }, "", label);
      const shown = make("span", {}, signed(state[key], 1), label);
      input.addEventListener("input", () => { state[key] = Number(input.value); shown.textContent = signed(state[key], 1); draw(); });
    };
    setting("ball", "CAGrad\u2019s \u03ba", 0, 0.9);
    setting("target", "GradVac\u2019s target", -0.9, 0.9);
    const said = make("p", { class: "mtl-said", "aria-live": "polite" }, "", box);
    const table = make("table", { "aria-label": "Every rule\u2019s weights, length and cosines" }, "", box);
    const head = make("tr", {}, "", make("thead", {}, "", table));
    for (const name of ["rule", "\u03bb\u2081", "\u03bb\u2082", "|d|", "cos g\u2081", "cos g\u2082"]) make("th", { scope: "col" }, name, head);
    head.firstChild.style.textAlign = "left";
    const body = make("tbody", {}, "", table);

    function move(which, x, y) {
      const length = Math.hypot(x, y), shrink = length > REACH ? REACH / length : 1;
      state.tips[which] = [x, y].map((v) => Math.round(10 * v * shrink) / 10);
      draw();
    }

    function draw() {
      const [first, second] = state.tips, lengths = state.tips.map((tip) => Math.hypot(...tip));
      const product = first[0] * second[0] + first[1] * second[1];
      const cosine = lengths[0] && lengths[1] ? product / lengths[0] / lengths[1] : 0;
      const found = directions(first, second, state);
      ground.replaceChildren();
      make("circle", { cx: CENTRE[0], cy: CENTRE[1], r: RING, style: "fill: none; stroke: var(--mtl-rule-strong)" }, "", ground);
      if (lengths[0] && lengths[1]) drawCone(first, second);
      const sides = { left: [], right: [] };
      const rows = [];
      for (const [name, answer] of Object.entries(found)) {
        const length = answer ? Math.hypot(...answer.direction) : 0;
        const reached = answer && length > 1e-9 * Math.max(...lengths, 1e-300);
        if (reached) {
          const [ux, uy] = answer.direction.map((v) => v / length);
          const tip = [CENTRE[0] + RING * ux, CENTRE[1] - RING * uy];
          arrow(ground, tip, LOOK[name][0], LOOK[name][1], name === "plain sum" ? 3.5 : 2);
          sides[ux < -1e-9 ? "left" : "right"].push({ name, tip, ux, y: CENTRE[1] - (RING + 10) * uy + 4 });
        }
        rows.push(row(name, answer, length, reached));
      }
      for (const [side, labels] of Object.entries(sides)) {
        spread(labels);
        for (const { name, tip, y } of labels) {
          const across = Math.sqrt(Math.max(RING * RING - (y - 4 - CENTRE[1]) ** 2, 0)), way = side === "left" ? -1 : 1;
          const x = CENTRE[0] + way * (Math.max(across, Math.abs(tip[0] - CENTRE[0]) - 8, 22) + 12);
          make("line", { x1: tip[0], y1: tip[1], x2: x - way * 2, y2: y - 4, style: `stroke: var(${LOOK[name][0]}); stroke-width: .8` }, "", ground);
          make("text", { x, y, "text-anchor": side === "left" ? "end" : "start" }, name, ground);
        }
      }
      state.tips.forEach((tip, which) => {
        const place = [CENTRE[0] + UNIT * tip[0], CENTRE[1] - UNIT * tip[1]];
        arrow(ground, place, colours[which], "", 4);
        handles[which].setAttribute("transform", `translate(${place.join()})`);
        handles[which].setAttribute("aria-valuenow", tip[0]);
        handles[which].setAttribute("aria-valuetext", `${signed(tip[0], 1)} to the right, ${signed(tip[1], 1)} up`);
        // The name stands beside the arrow, on the side that turns away from the other one.
        const other = state.tips[1 - which], turn = tip[0] * other[1] - tip[1] * other[0] > 0 === (which === 0) ? 1 : -1;
        const aside = lengths[which] ? [tip[1], -tip[0]].map((v) => (turn * (which ? -1 : 1) * 15 * v) / lengths[which]) : [0, -18];
        const text = { x: place[0] + aside[0], y: place[1] - aside[1] + 4, "text-anchor": "middle", style: "font-weight: 620" };
        make("text", text, names[which].slice(0, 2), ground);
      });
      body.replaceChildren(...rows);
      const still = Object.entries(found).filter(([, answer]) => !answer).map(([name]) => name);
      const harmful = Object.entries(found).filter(([, answer]) => answer && worst(answer.direction) < -1e-9).map(([name]) => name);
      said.textContent = `Cosine of g\u2081 and g\u2082: ${signed(cosine)}. ` +
        (harmful.length ? `Worsens a task: ${harmful.join(", ")}.` : "No rule worsens a task.") +
        (still.length ? ` No solution: ${still.join(", ")}.` : "");
    }

    function worst(direction) {
      return Math.min(...state.tips.map((tip) => tip[0] * direction[0] + tip[1] * direction[1]));
    }

    // The directions that worsen neither task: those at a right angle or less to both gradients.
    function drawCone(first, second) {
      const start = Math.atan2(first[1], first[0]);
      const turn = Math.atan2(first[0] * second[1] - first[1] * second[0], first[0] * second[0] + first[1] * second[1]);
      const half = (Math.PI - Math.abs(turn)) / 2, middle = start + turn / 2;
      const [low, high] = [middle - half, middle + half].map((at) => [CENTRE[0] + RING * Math.cos(at), CENTRE[1] - RING * Math.sin(at)]);
      const path = `M${CENTRE.join()} L${low.join()} A${RING} ${RING} 0 ${half > Math.PI / 2 ? 1 : 0} 0 ${high.join()} Z`;
      make("path", { d: path, class: "mtl-cone", style: "fill: var(--mtl-accent-soft); stroke: none" }, "", ground);
    }

    function row(name, answer, length, reached) {
      const line = make("tr");
      const label = make("th", { scope: "row" }, "", line);
      make("span", { class: "mtl-swatch", style: `border-top-color: var(${LOOK[name][0]})`, "aria-hidden": "true" }, "", label);
      label.append(name);
      if (!answer) {
        make("td", { colspan: 5 }, "no solution", line);
        return line;
      }
      for (const value of [...answer.weights, length]) make("td", {}, signed(value), line);
      for (const tip of state.tips) {
        const size = Math.hypot(...tip) * length;
        const cosine = reached && size ? (tip[0] * answer.direction[0] + tip[1] * answer.direction[1]) / size : 0;
        make("td", cosine < -1e-9 ? { class: "mtl-worse" } : {}, signed(cosine), line);
      }
      return line;
    }
    draw();
  }

  const start = () => {
    const boxes = document.querySelectorAll('[data-figure="gradients"]');
    if (boxes.length) make("style", {}, STYLE, document.head);
    boxes.forEach(build);
  };
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", start);
  else start();
})();
