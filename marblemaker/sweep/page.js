"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const MOST_CELLS = 40, BINS = 20, MOST_TICKS = 12;
  const settings = data.settings;
  const rows = data.combination.length;
  const tip = byId("tip");

  // ---------------------------------------------------------------- numbers and colours

  const told = (v) => v === null || v === undefined ? "off" : typeof v === "number" ? String(+v.toPrecision(6)) : String(v);
  const short = (v) => String(+v.toPrecision(3));
  /** Whether ordered values are better told apart by their ratios: most crowd near the low end. */
  const byRatio = (sorted) => {
    const low = sorted[0], high = sorted[sorted.length - 1], middle = sorted[sorted.length >> 1];
    return low > 0 && high / low >= 30 && (middle - low) / (high - low) < 0.25;
  };
  const tone = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  const parts = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const mix = (a, b, share) => `rgb(${parts(a).map((v, i) => Math.round(v + (parts(b)[i] - v) * share)).join(",")})`;
  /** Colours between two ends; where both signs occur, nothing stands in the middle. */
  const scaleOf = (values) => {
    let low = Infinity, high = -Infinity;
    for (const v of values) if (v !== null) { low = Math.min(low, v); high = Math.max(high, v); }
    const both = low < 0 && high > 0;
    if (both) { high = Math.max(high, -low); low = -high; }
    const [a, m, b] = [tone("low"), tone("middle"), tone("high")];
    const shades = Array.from({ length: 65 }, (_, i) => i < 32 ? mix(a, m, i / 32) : mix(m, b, (i - 32) / 32));
    return { low, high, colour: (v) => v === null ? tone("none") : shades[high > low ? Math.round((v - low) / (high - low) * 64) : 32] };
  };
  /** Ordered distinct values of a setting, or bins of them if there are many. */
  const slotsOf = (setting, chosen) => {
    const seen = new Map();
    for (const i of chosen) seen.set(String(setting.values[i]), setting.values[i]);
    const distinct = [...seen.values()].sort((a, b) =>
      a === null ? -1 : b === null ? 1 : setting.numeric ? a - b : String(a) < String(b) ? -1 : 1);
    if (!setting.numeric || distinct.length <= MOST_CELLS) {
      const at = new Map(distinct.map((v, i) => [String(v), i]));
      return { labels: distinct.map(told), of: (v) => at.get(String(v)), binned: false };
    }
    const numbers = distinct.filter((v) => v !== null);
    const low = numbers[0], high = numbers[numbers.length - 1], ratio = byRatio(numbers);
    const edge = (i) => ratio ? low * (high / low) ** (i / BINS) : low + (high - low) * i / BINS;
    const share = (v) => ratio ? Math.log(v / low) / Math.log(high / low) : (v - low) / (high - low);
    return {
      labels: Array.from({ length: BINS }, (_, i) => `${short(edge(i))} …`), binned: true,
      of: (v) => v === null ? 0 : Math.min(BINS - 1, Math.floor(share(v) * BINS)),
    };
  };

  // ---------------------------------------------------------------- drawing

  const node = (parent, kind, attributes, text) => {
    const one = document.createElementNS(SVG, kind);
    for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
    if (text !== undefined) one.textContent = text;
    parent.appendChild(one);
    return one;
  };
  const canvasOf = (div, width, height) => {
    div.replaceChildren();
    return node(div, "svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  };
  const show = (event, text) => {
    tip.textContent = text;
    tip.hidden = false;
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
  };
  const hide = () => { tip.hidden = true; };
  const key = (svg, scale, x, y, height) => {
    for (let i = 0; i < 64; i++) {
      const v = scale.low + (scale.high - scale.low) * i / 63;
      node(svg, "rect", { x, y: y + height * (63 - i) / 64, width: 12, height: height / 64 + 0.6, fill: scale.colour(v) });
    }
    node(svg, "text", { x: x + 17, y: y + 9 }, told(scale.high));
    node(svg, "text", { x: x + 17, y: y + height / 2 + 4 }, told((scale.high + scale.low) / 2));
    node(svg, "text", { x: x + 17, y: y + height }, told(scale.low));
  };

  const chosenRows = () => {
    const one = byId("recording").value;
    const all = Array.from({ length: rows }, (_, i) => i);
    return one === "all" ? all : all.filter((i) => data.recording[i] === Number(one));
  };
  const metric = () => data.metrics[Number(byId("metric").value)];
  const mean = (cell) => cell.n ? cell.sum / cell.n : null;
  const add = (cell, v) => { if (v !== null) { cell.sum += v; cell.n += 1; } };

  const drawHeat = () => {
    const chosen = chosenRows(), m = metric(), a = settings[Number(byId("x").value)], b = settings[Number(byId("y").value)];
    const across = slotsOf(a, chosen), up = slotsOf(b, chosen);
    const cells = up.labels.map(() => across.labels.map(() => ({ sum: 0, n: 0 })));
    for (const i of chosen) add(cells[up.of(b.values[i])][across.of(a.values[i])], m.values[i]);
    const scale = scaleOf(cells.flat().map(mean));
    const several = cells.flat().some((cell) => cell.n > 1);
    byId("heat-title").textContent = `${m.name} by ${a.name} and ${b.name}`;
    byId("heat-note").textContent = `${several ? "A cell is the mean of its replays" : "A cell is one replay"}${across.binned || up.binned ? "; values are put into bins" : ""}. Grey: nothing ran there.`;
    const width = Math.max(480, byId("heat").clientWidth), left = 90, right = 90, bottom = 44;
    const w = (width - left - right) / across.labels.length;
    const h = Math.min(46, Math.max(14, Math.min(w, 520 / up.labels.length))), high = h * up.labels.length;
    const svg = canvasOf(byId("heat"), width, high + bottom + 6);
    cells.forEach((line, j) => line.forEach((cell, i) => {
      const v = mean(cell), y = high - (j + 1) * h;
      const box = node(svg, "rect", { x: left + i * w, y, width: Math.max(w - 1, 0.5), height: Math.max(h - 1, 0.5), fill: scale.colour(v) });
      const text = `${a.name} = ${across.labels[i]}\n${b.name} = ${up.labels[j]}\n${m.name} ${v === null ? "–" : told(v)}${cell.n > 1 ? `, mean of ${cell.n}` : ""}`;
      box.addEventListener("mousemove", (event) => show(event, text));
      box.addEventListener("mouseleave", hide);
    }));
    const stepX = Math.ceil(across.labels.length / MOST_TICKS), stepY = Math.ceil(up.labels.length * 14 / Math.max(high, 1));
    across.labels.forEach((text, i) => { if (i % stepX === 0) node(svg, "text", { x: left + (i + 0.5) * w, y: high + 15, "text-anchor": "middle" }, text); });
    up.labels.forEach((text, j) => { if (j % stepY === 0) node(svg, "text", { x: left - 6, y: high - (j + 0.5) * h + 4, "text-anchor": "end" }, text); });
    node(svg, "text", { x: left + (width - left - right) / 2, y: high + 34, "text-anchor": "middle", class: "name" }, a.name);
    node(svg, "text", { x: 12, y: high / 2, "text-anchor": "middle", class: "name", transform: `rotate(-90 12 ${high / 2})` }, b.name.split(".").pop());
    key(svg, scale, width - right + 16, 0, Math.max(high - 1, 40));
  };

  const drawLine = () => {
    const m = metric(), a = settings[0], chosen = chosenRows();
    byId("heat-title").textContent = `${m.name} by ${a.name}`;
    byId("heat-note").textContent = byId("recording").value === "all" && data.recordings.length > 1 ? "The mean over all recordings." : "";
    const slots = new Map();
    for (const i of chosen) {
      const at = String(a.values[i]);
      if (!slots.has(at)) slots.set(at, { value: a.values[i], sum: 0, n: 0 });
      add(slots.get(at), m.values[i]);
    }
    const points = [...slots.values()].filter((p) => p.n).sort((p, q) => a.numeric ? p.value - q.value : 0);
    const width = Math.max(480, byId("heat").clientWidth), left = 90, high = 300;
    const svg = canvasOf(byId("heat"), width, high + 50);
    if (!points.length) return;
    const ys = points.map(mean), low = Math.min(...ys), top = Math.max(...ys), span = top - low || 1;
    const numeric = a.numeric && points.every((p) => p.value !== null) && points.length > 1;
    const first = points[0].value, wide = points[points.length - 1].value - first;
    const x = (p, i) => left + 10 + (width - left - 40) * (numeric ? (p.value - first) / wide : points.length > 1 ? i / (points.length - 1) : 0.5);
    const y = (v) => 8 + (high - 16) * (1 - (v - low) / span);
    for (const v of [low, low + span / 2, low + span]) {
      node(svg, "line", { x1: left, x2: width - 20, y1: y(v), y2: y(v), stroke: "var(--grid)" });
      node(svg, "text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, told(v));
    }
    if (low < 0 && top > 0) node(svg, "line", { x1: left, x2: width - 20, y1: y(0), y2: y(0), stroke: "var(--dim)" });
    node(svg, "polyline", { points: points.map((p, i) => `${x(p, i)},${y(ys[i])}`).join(" "), fill: "none", stroke: "var(--accent)", "stroke-width": 1.5 });
    const step = Math.ceil(points.length / MOST_TICKS);
    points.forEach((p, i) => {
      const dot = node(svg, "circle", { cx: x(p, i), cy: y(ys[i]), r: 4, fill: "var(--accent)" });
      dot.addEventListener("mousemove", (event) => show(event, `${a.name} = ${told(p.value)}\n${m.name} ${told(ys[i])}`));
      dot.addEventListener("mouseleave", hide);
      if (i % step === 0) node(svg, "text", { x: x(p, i), y: high + 15, "text-anchor": "middle" }, told(p.value));
    });
    node(svg, "text", { x: left + (width - left) / 2, y: high + 36, "text-anchor": "middle", class: "name" }, a.name);
  };

  // ---------------------------------------------------------------- parallel coordinates

  const brushes = new Map();
  const axisOf = (name, values, numeric) => {
    const present = values.filter((v) => v !== null);
    if (numeric && present.length) {
      present.sort((a, b) => a - b);
      const low = present[0], high = present[present.length - 1], span = high - low, ratio = byRatio(present);
      const value = (t) => ratio ? low * (high / low) ** t : low + t * span;
      const share = (v) => !span ? 0.5 : ratio ? Math.log(v / low) / Math.log(high / low) : (v - low) / span;
      const ticks = span ? [0, 0.25, 0.5, 0.75, 1].map((t) => [t, short(value(t))]) : [[0.5, told(low)]];
      return { name, ticks, at: (i) => values[i] === null ? null : share(values[i]) };
    }
    const distinct = [...new Set(values.map(told))].sort();
    const place = new Map(distinct.map((text, i) => [text, distinct.length > 1 ? i / (distinct.length - 1) : 0.5]));
    return { name, ticks: distinct.slice(0, 20).map((text) => [place.get(text), text]), at: (i) => place.get(told(values[i])) };
  };

  const drawParallel = () => {
    const m = metric(), div = byId("parallel"), chosen = chosenRows();
    const axes = [...settings.map((s) => axisOf(s.name, s.values, s.numeric)), axisOf(m.name, m.values, true)];
    const width = Math.max(480, div.clientWidth), height = 420, top = 34, low = height - 18, left = 60, right = 70;
    const x = (k) => left + (width - left - right) * k / (axes.length - 1);
    const y = (share) => low - (low - top) * share;
    div.replaceChildren();
    const canvas = document.createElement("canvas"), ratio = window.devicePixelRatio || 1;
    canvas.width = width * ratio; canvas.height = height * ratio;
    canvas.style.width = `${width}px`; canvas.style.height = `${height}px`;
    div.appendChild(canvas);
    const svg = node(div, "svg", { width, height, role: "img" });
    const scale = scaleOf(chosen.map((i) => m.values[i]));
    // The best are drawn last, so that they lie on top.
    const order = chosen.slice().sort((i, j) => (m.values[i] ?? -Infinity) - (m.values[j] ?? -Infinity));
    const paint = () => {
      const pen = canvas.getContext("2d");
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.clearRect(0, 0, width, height);
      pen.lineWidth = 1.2;
      let kept = 0;
      const passes = (i) => axes.every((axis) => {
        const range = brushes.get(axis.name), at = axis.at(i);
        return !range || (at !== null && at >= range[0] && at <= range[1]);
      });
      const draw = (i, colour, alpha) => {
        pen.strokeStyle = colour; pen.globalAlpha = alpha; pen.beginPath();
        axes.forEach((axis, k) => { const at = axis.at(i) ?? 0; if (k) pen.lineTo(x(k), y(at)); else pen.moveTo(x(k), y(at)); });
        pen.stroke();
      };
      const through = order.filter(passes), set = new Set(through);
      for (const i of order) if (!set.has(i)) draw(i, tone("none"), 0.6);
      for (const i of through) { draw(i, scale.colour(m.values[i]), through.length > 3000 ? 0.35 : 0.8); kept += 1; }
      byId("kept").textContent = `${kept.toLocaleString("en")} of ${order.length.toLocaleString("en")} lines`;
    };
    axes.forEach((axis, k) => {
      node(svg, "line", { x1: x(k), x2: x(k), y1: top, y2: low, stroke: "var(--dim)" });
      const name = k % 2 && axes.length > 5 ? 26 : 12;
      node(svg, "text", { x: x(k), y: name, "text-anchor": k === 0 ? "start" : k === axes.length - 1 ? "end" : "middle", class: "name" }, axis.name.split(".").pop());
      for (const [at, text] of axis.ticks) node(svg, "text", { x: x(k) + 5, y: y(at) + 4 }, text);
      const mark = node(svg, "rect", { x: x(k) - 7, width: 14, y: 0, height: 0, fill: "var(--accent)", opacity: 0.35 });
      const put = () => {
        const range = brushes.get(axis.name);
        mark.setAttribute("y", range ? y(range[1]) : 0);
        mark.setAttribute("height", range ? Math.max(2, y(range[0]) - y(range[1])) : 0);
      };
      put();
      const grip = node(svg, "rect", { x: x(k) - 12, width: 24, y: top - 6, height: low - top + 12, fill: "transparent", style: "cursor: crosshair" });
      let from = null;
      const share = (event) => Math.min(1, Math.max(0, (low - (event.clientY - svg.getBoundingClientRect().top)) / (low - top)));
      grip.addEventListener("pointerdown", (event) => { from = share(event); brushes.delete(axis.name); grip.setPointerCapture(event.pointerId); put(); paint(); });
      grip.addEventListener("pointermove", (event) => {
        if (from === null) return;
        const to = share(event);
        if (Math.abs(to - from) > 0.01) brushes.set(axis.name, [Math.min(from, to) - 1e-9, Math.max(from, to) + 1e-9]);
        put(); paint();
      });
      grip.addEventListener("pointerup", () => { from = null; });
    });
    paint();
  };

  // ---------------------------------------------------------------- choices

  const fill = (id, names, chosen) => {
    byId(id).replaceChildren(...names.map(([value, text]) => {
      const option = document.createElement("option");
      option.value = value; option.textContent = text; option.selected = value === chosen;
      return option;
    }));
  };
  const draw = () => {
    if (!rows || !data.metrics.length) { byId("heat-title").textContent = "Nothing ran"; byId("parallel-panel").hidden = true; return; }
    if (settings.length > 1) drawHeat(); else drawLine();
    byId("parallel-panel").hidden = settings.length < 3;
    if (settings.length > 2) drawParallel();
  };
  fill("metric", data.metrics.map((m, i) => [String(i), m.name]), String(data.metrics.findIndex((m) => m.name === "pnl")));
  const one = data.recordings.map((name, i) => [String(i), name]);
  fill("recording", data.recordings.length > 1 ? [["all", "all (mean)"], ...one] : one);
  fill("x", settings.map((s, i) => [String(i), s.name]), "0");
  fill("y", settings.map((s, i) => [String(i), s.name]), "1");
  byId("pair").hidden = settings.length < 3;
  for (const id of ["metric", "recording", "x", "y"]) byId(id).addEventListener("change", draw);
  let theme = window.matchMedia && matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const wear = () => { root.dataset.theme = theme; draw(); };
  byId("theme").addEventListener("click", () => { theme = theme === "dark" ? "light" : "dark"; wear(); });
  addEventListener("resize", draw);
  wear();
})();
