"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const KINDS = { f8: Float64Array, f4: Float32Array };
  const root = document.documentElement;
  const card = document.getElementById("card");
  const base = BigInt(data.base);
  const baseMs = Number(base / 1000000n) + Number(base % 1000000n) / 1e6;
  const whole = [baseMs + data.span[0] / 1e6, baseMs + data.span[1] / 1e6];
  const MARGIN = { l: 76, r: 70, t: 8, b: 36 };
  const NEAR_PX = 5;

  // ---------------------------------------------------------------- numbers

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const columns = data.columns.map((c) => new KINDS[c.t](bytes(c.b).buffer));
  const msOf = new Map();
  /** A column of ns since the base, as ms since 1970 for the axis. */
  const ms = (i) => {
    if (!msOf.has(i)) msOf.set(i, Float64Array.from(columns[i], (ns) => baseMs + ns / 1e6));
    return msOf.get(i);
  };
  /** Index of the last value that is at most x, or −1. */
  const lastAtMost = (values, x) => {
    let low = 0, high = values.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (values[middle] <= x) low = middle + 1; else high = middle;
    }
    return low - 1;
  };
  /** An instant with all nine decimals. */
  const iso = (ns) => {
    const ts = base + BigInt(Math.round(ns));
    const text = new Date(Number(ts / 1000000000n) * 1000).toISOString().slice(0, 19);
    return `${text}.${String(ts % 1000000000n).padStart(9, "0")}Z`;
  };
  const local = new Intl.DateTimeFormat("en-US", {
    timeZone: data.zone, hourCycle: "h23", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short",
  });
  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const colour = (name) => getComputedStyle(root).getPropertyValue(`--c-${name}`).trim();
  const tone = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  // ---------------------------------------------------------------- charts

  const panels = data.panels.map((panel) => ({
    ...panel, div: document.getElementById(`chart-${panel.key}`), hidden: new Set(), cursor: null,
  })).filter((panel) => panel.div && panel.lines.length);
  let range = whole.slice();
  let busy = false;

  const traceOf = (panel, line, i) => {
    const c = colour(line.colour);
    const trace = {
      type: "scatter", name: escaped(line.name), x: ms(line.x), y: columns[line.y], hoverinfo: "none",
      showlegend: false, visible: !panel.hidden.has(i), yaxis: line.axis === 2 ? "y2" : "y",
    };
    if (line.kind === "marks") {
      trace.mode = "markers";
      const symbol = { buy: "triangle-up", sell: "triangle-down" }[line.colour];
      trace.marker = symbol
        ? { symbol, size: 11, color: c, line: { width: 1, color: tone("panel") } }
        : { symbol: "circle", size: 4, color: c };
    } else if (line.kind === "spans") {
      const starts = ms(line.x), ends = ms(line.e), n = starts.length;
      const x = new Float64Array(3 * n), y = new Float64Array(3 * n).fill(line.lane + 0.22);
      for (let k = 0; k < n; k++) {
        x[3 * k] = starts[k]; x[3 * k + 1] = ends[k]; x[3 * k + 2] = NaN; y[3 * k + 2] = NaN;
      }
      const size = new Array(3 * n).fill(0);
      for (let k = 0; k < n; k++) size[3 * k] = 10;
      Object.assign(trace, { x, y, mode: "lines+markers", line: { color: c, width: 8 } });
      trace.marker = { symbol: "line-ns-open", size, color: c, line: { width: 1.5, color: c } };
    } else {
      trace.mode = "lines";
      trace.line = { color: c, width: line.dash ? 1 : 1.5, dash: line.dash ? "dot" : "solid" };
      trace.line.shape = line.kind === "step" ? "hv" : "linear";
      trace.connectgaps = false;
    }
    return trace;
  };

  /** Least and greatest value that is seen on an axis within the range. */
  const extent = (panel, axis) => {
    let low = Infinity, high = -Infinity;
    panel.lines.forEach((line, i) => {
      if (line.axis !== axis || panel.hidden.has(i)) return;
      const x = ms(line.x), y = columns[line.y];
      // A line holds its value from before the left edge.
      const from = Math.max(0, lastAtMost(x, range[0])), to = lastAtMost(x, range[1]);
      for (let k = line.kind === "marks" && x[from] < range[0] ? from + 1 : from; k <= to; k++) {
        const v = y[k];
        if (v < low) low = v;
        if (v > high) high = v;
      }
    });
    // Limits are shown where they are not far from what is seen.
    if (axis === 1 && low <= high) {
      for (const limit of panel.limits) {
        const reach = panel.log ? 30 : 3;
        const near = panel.log ? limit.y < high * reach : Math.abs(limit.y) <= reach * Math.max(Math.abs(low), Math.abs(high), 1e-12);
        if (near) { low = Math.min(low, limit.y); high = Math.max(high, limit.y); }
      }
    }
    if (low > high) return panel.log && axis === 1 ? [-1, 1] : [0, 1];
    if (panel.log && axis === 1) {
      const [a, b] = [Math.log10(low), Math.log10(high)];
      const pad = Math.max(0.06 * (b - a), 0.1);
      return [a - pad, b + pad];
    }
    if (panel.centred) {
      // Zero in the middle of both axes, so that one line of zero serves both.
      const most = 1.06 * Math.max(Math.abs(low), Math.abs(high)) || 1;
      return [-most, most];
    }
    const pad = high > low ? 0.06 * (high - low) : Math.max(Math.abs(high) * 1e-4, 0.5);
    return [low - pad, high + pad];
  };

  const layoutOf = (panel) => {
    const axis = { gridcolor: tone("grid"), linecolor: tone("line"), zeroline: false, tickfont: { size: 11 } };
    const shapes = [], annotations = [];
    const box = (band) => shapes.push({
      type: "rect", xref: "x", yref: "paper", x0: baseMs + band.start / 1e6, x1: baseMs + band.end / 1e6,
      y0: 0, y1: 1, line: { width: 0 }, fillcolor: colour(band.colour), layer: "below",
    });
    (panel.bands.length ? panel.bands : data.outside).forEach(box);
    for (const mark of data.marks) {
      const x = baseMs + mark.ts / 1e6;
      shapes.push({ type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, line: { width: 1, dash: "dash", color: tone("dim") }, layer: "below" });
      if (panel.labelled) {
        annotations.push({ x, xref: "x", y: 1, yref: "paper", yanchor: "top", xanchor: mark.label.startsWith("open") ? "left" : "right", text: escaped(mark.label), showarrow: false, font: { size: 11, color: tone("dim") } });
      }
    }
    for (const limit of panel.limits) {
      shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, yref: "y", y0: limit.y, y1: limit.y, line: { width: 1, dash: "dash", color: colour("limit") } });
      annotations.push({ x: 1, xref: "paper", xanchor: "right", y: panel.log ? Math.log10(limit.y) : limit.y, yref: "y", yanchor: "bottom", text: escaped(`${limit.label} ${limit.y}`), showarrow: false, font: { size: 11, color: colour("limit") } });
    }
    panel.lanes.forEach((lane, i) => annotations.push({
      x: 0, xref: "paper", xanchor: "left", y: i - 0.2, yref: "y", yanchor: "middle", text: escaped(lane),
      showarrow: false, font: { size: 11, color: tone("text") },
    }));
    const layout = {
      height: panel.height, margin: MARGIN, paper_bgcolor: tone("panel"), plot_bgcolor: tone("panel"),
      font: { color: tone("text"), size: 12 }, showlegend: false, hovermode: false, dragmode: "zoom",
      shapes, annotations,
      xaxis: { ...axis, type: "date", range: range.slice(), hoverformat: "%H:%M:%S.%L" },
      yaxis: {
        ...axis, title: { text: escaped(panel.unit), font: { size: 12 }, standoff: 10 }, fixedrange: true,
        type: panel.log ? "log" : "linear", range: extent(panel, 1), exponentformat: "none", separatethousands: false,
      },
    };
    if (panel.centred) Object.assign(layout.yaxis, { zeroline: true, zerolinecolor: tone("line") });
    if (panel.log) Object.assign(layout.yaxis, { dtick: 1, minor: { showgrid: false } });
    if (panel.lanes.length) {
      Object.assign(layout.yaxis, { range: [panel.lanes.length - 0.4, -0.6], showticklabels: false, showgrid: false });
    }
    if (panel.unit2) {
      layout.yaxis2 = {
        ...axis, title: { text: escaped(panel.unit2), font: { size: 12 }, standoff: 10 }, overlaying: "y", side: "right",
        fixedrange: true, showgrid: false, range: extent(panel, 2), exponentformat: "none",
      };
    }
    return layout;
  };

  const config = {
    displayModeBar: false, responsive: true, doubleClick: false, scrollZoom: false, showTips: false,
  };
  const draw = (panel) => Plotly.react(
    panel.div, panel.lines.map((line, i) => traceOf(panel, line, i)), layoutOf(panel), config);

  // ---------------------------------------------------------------- one range for all

  const show = (from, to) => {
    range = [Math.max(whole[0], Math.min(from, to)), Math.min(whole[1], Math.max(from, to))];
    if (!(range[1] - range[0] > 1e-3)) range = whole.slice();
    busy = true;
    const done = panels.map((panel) => {
      const change = { "xaxis.range": range.slice() };
      if (!panel.lanes.length) change["yaxis.range"] = extent(panel, 1);
      if (panel.unit2) change["yaxis2.range"] = extent(panel, 2);
      return Plotly.relayout(panel.div, change);
    });
    moveCursor(null);
    return Promise.all(done).finally(() => { busy = false; });
  };
  const asMs = (value) => {
    if (typeof value === "number") return value;
    const [day, time = "00:00"] = String(value).split(/[ T]/);
    const [clock, fraction = "0"] = time.replace("Z", "").split(".");
    const parts = clock.split(":");
    while (parts.length < 3) parts.push("00");
    return Date.parse(`${day}T${parts.join(":")}Z`) + Number(`0.${fraction}`) * 1000;
  };
  const onRelayout = (change) => {
    if (busy) return;
    const pair = change["xaxis.range"] || [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    if (pair[0] !== undefined && pair[1] !== undefined) show(asMs(pair[0]), asMs(pair[1]));
    else if (change["xaxis.autorange"]) show(...whole);
  };

  // ---------------------------------------------------------------- pointing

  const times = data.decisions ? columns[data.decisions.x] : new Float64Array(0);
  let cards = null, pinned = false, chosen = -1, last = null;

  const area = (panel) => {
    const width = panel.div.clientWidth - MARGIN.l - MARGIN.r;
    return { left: MARGIN.l, width, height: panel.height - MARGIN.t - MARGIN.b };
  };
  const xOf = (panel, at) => {
    const a = area(panel);
    return a.left + ((at - range[0]) / (range[1] - range[0])) * a.width;
  };
  const moveCursor = (at) => {
    for (const panel of panels) {
      const inside = at !== null && at >= range[0] && at <= range[1];
      panel.cursor.style.display = inside ? "block" : "none";
      if (inside) panel.cursor.style.left = `${xOf(panel, at)}px`;
    }
  };
  const row = (left, right, dim) => {
    const div = document.createElement("div");
    div.className = dim ? "row dim" : "row";
    for (const text of [left, right]) {
      const span = document.createElement("span");
      span.textContent = text;
      div.append(span);
    }
    return div;
  };
  const text = (value, kind) => {
    const div = document.createElement("div");
    div.textContent = value;
    if (kind) div.className = kind;
    return div;
  };
  const shorter = (v, digits) => {
    if (Number.isNaN(v)) return "—";
    const size = Math.abs(v);
    const shown = size !== 0 && size < 10 ** -digits ? v.toPrecision(3) : v.toFixed(digits);
    return shown.replace("-", "−");
  };

  /** What each line of a panel says at an instant. */
  const valuesAt = (panel, ns, reach) => {
    const rows = [];
    panel.lines.forEach((line, i) => {
      if (panel.hidden.has(i)) return;
      const x = columns[line.x], y = columns[line.y];
      let k = lastAtMost(x, ns);
      if (line.kind === "spans") {
        if (k >= 0 && (columns[line.e][k] > ns || x[k] === ns)) rows.push(row(line.name, `since ${iso(x[k]).slice(11)}`));
        return;
      }
      if (line.kind === "marks") {
        if (k + 1 < x.length && (k < 0 || x[k + 1] - ns < ns - x[k])) k += 1;
        if (k < 0 || Math.abs(x[k] - ns) > reach) return;
        if (line.texts) rows.push(text(`${line.texts[k]} · ${iso(x[k])}`, "what"));
        else rows.push(row(line.name, `${shorter(y[k], line.digits)} ${line.unit} · ${iso(x[k]).slice(11)}`));
        return;
      }
      if (k < 0) return;
      rows.push(row(line.name, `${shorter(y[k], line.digits)}${line.unit ? ` ${line.unit}` : ""} · ${iso(x[k]).slice(11)}`));
    });
    return rows;
  };
  const decisionAt = (ns, reach) => {
    const before = lastAtMost(times, ns);
    let best = before;
    for (const k of [before, before + 1]) {
      if (k < 0 || k >= times.length || Math.abs(times[k] - ns) > reach) continue;
      if (Math.abs(times[k] - ns) <= Math.abs((times[best] ?? Infinity) - ns)) best = k;
    }
    return best;
  };
  const fill = (panel, at, ns, reach) => {
    const clock = local.format(new Date(baseMs + ns / 1e6));
    card.replaceChildren(row(`${iso(ns).slice(0, 23)}Z`, clock, true));
    if (pinned) card.append(text("pinned: ← → step, click or Esc to let go", "dim"));
    card.append(...valuesAt(panel, ns, reach));
    if (!data.decisions) return;
    card.append(document.createElement("hr"));
    if (chosen < 0) { card.append(text("nothing had been decided yet", "dim")); return; }
    if (cards === null) { card.append(text(data.unpacking, "dim")); return; }
    cards[chosen].forEach((line, i) => card.append(text(line, i ? "" : "what")));
    const seq = /seq (\d+)/.exec(cards[chosen][0])[1];
    card.append(text(`marble why ${data.file} "seq ${seq}"`, "dim"));
  };
  const place = (x) => {
    card.classList.toggle("right", x < window.innerWidth / 2);
    card.classList.toggle("left", x >= window.innerWidth / 2);
    card.hidden = false;
  };
  const point = (panel, event) => {
    const box = panel.div.getBoundingClientRect(), a = area(panel);
    const share = (event.clientX - box.left - a.left) / a.width;
    if (share < 0 || share > 1) return;
    const at = range[0] + share * (range[1] - range[0]);
    const reach = ((range[1] - range[0]) / a.width) * NEAR_PX * 1e6;
    let ns = (at - baseMs) * 1e6;
    if (panel.lanes.length) ns = nearSpan(panel, event.clientY - box.top, ns, reach);
    chosen = decisionAt(ns, reach);
    last = { panel, reach };
    moveCursor(at);
    fill(panel, at, chosen >= 0 && Math.abs(times[chosen] - ns) <= reach ? times[chosen] : ns, reach);
    place(event.clientX);
  };
  /** In the lanes a stretch shorter than a pixel is still to be found: the nearest of its lane. */
  const nearSpan = (panel, y, ns, reach) => {
    const a = area(panel), n = panel.lanes.length;
    const lane = Math.round(((y - MARGIN.t) / a.height) * (n + 0.2) - 0.6);
    const line = panel.lines.find((one) => one.lane === lane);
    if (!line) return ns;
    const x = columns[line.x], before = lastAtMost(x, ns);
    if (before >= 0 && columns[line.e][before] >= ns) return ns;
    let best = ns, distance = reach;
    for (const k of [before, before + 1]) {
      if (k >= 0 && k < x.length && Math.abs(x[k] - ns) <= distance) { distance = Math.abs(x[k] - ns); best = x[k]; }
    }
    return best;
  };
  const unpin = () => {
    pinned = false;
    card.classList.remove("pinned");
    card.hidden = true;
    moveCursor(null);
  };
  const step = (by) => {
    chosen = Math.min(times.length - 1, Math.max(0, chosen + by));
    const at = baseMs + times[chosen] / 1e6;
    if (at < range[0] || at > range[1]) {
      const half = (range[1] - range[0]) / 2;
      show(at - half, at + half);
    }
    moveCursor(at);
    fill(last.panel, at, times[chosen], 0);
  };

  const listen = (panel) => {
    let down = null;
    panel.div.addEventListener("mousemove", (event) => { if (!pinned && !event.buttons) point(panel, event); });
    panel.div.addEventListener("mouseleave", () => { if (!pinned) { card.hidden = true; moveCursor(null); } });
    panel.div.addEventListener("mousedown", (event) => { down = [event.clientX, event.clientY]; }, true);
    window.addEventListener("mouseup", (event) => {
      const still = down && Math.hypot(event.clientX - down[0], event.clientY - down[1]) < 4;
      down = null;
      if (!still || event.button !== 0) return;
      if (pinned) { unpin(); return; }
      point(panel, event);
      if (card.hidden) return;
      pinned = true;
      card.classList.add("pinned");
      card.children[0].after(text("pinned: ← → step, click or Esc to let go", "dim"));
    }, true);
    panel.div.addEventListener("dblclick", () => { unpin(); show(...whole); });
    panel.div.on("plotly_relayout", onRelayout);
    document.getElementById(`save-${panel.key}`).addEventListener("click", () => Plotly.downloadImage(
      panel.div, { format: "png", scale: 2, width: 1400, height: panel.height, filename: `${data.file}-${panel.key}` }));
  };

  const legend = (panel) => {
    const box = document.getElementById(`legend-${panel.key}`);
    if (panel.lanes.length) { box.remove(); return; }
    panel.lines.forEach((line, i) => {
      const button = document.createElement("button"), swatch = document.createElement("i");
      button.type = "button";
      const mark = { buy: "up", sell: "down" }[line.colour] || "dot";
      swatch.className = line.kind === "marks" ? mark : line.dash ? "dash" : "";
      swatch.style.color = swatch.style.borderColor = "";
      swatch.style.color = `var(--c-${line.colour})`;
      if (line.kind !== "marks") swatch.style.borderTopColor = `var(--c-${line.colour})`;
      button.append(swatch, document.createTextNode(line.name));
      button.addEventListener("click", () => {
        if (panel.hidden.has(i)) panel.hidden.delete(i); else panel.hidden.add(i);
        button.classList.toggle("off", panel.hidden.has(i));
        draw(panel);
      });
      box.append(button);
    });
  };

  // ---------------------------------------------------------------- light and dark

  const wanted = window.matchMedia("(prefers-color-scheme: dark)");
  let byHand = null;
  const theme = () => {
    root.dataset.theme = byHand || (wanted.matches ? "dark" : "light");
    panels.forEach(draw);
  };
  document.getElementById("theme").addEventListener("click", () => {
    byHand = root.dataset.theme === "dark" ? "light" : "dark";
    theme();
  });
  wanted.addEventListener("change", theme);
  document.getElementById("reset").addEventListener("click", () => show(...whole));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") unpin();
    if (pinned && times.length && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
      event.preventDefault();
      step(event.key === "ArrowLeft" ? -1 : 1);
    }
  });

  // ---------------------------------------------------------------- begin

  root.dataset.theme = wanted.matches ? "dark" : "light";
  for (const panel of panels) {
    draw(panel);
    panel.cursor = document.createElement("div");
    panel.cursor.className = "cursor";
    Object.assign(panel.cursor.style, { top: `${MARGIN.t}px`, height: `${panel.height - MARGIN.t - MARGIN.b}px` });
    panel.div.append(panel.cursor);
    legend(panel);
    listen(panel);
  }
  const unpack = async (packed) => {
    const stream = new Blob([bytes(packed)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  };
  data.unpacking = "unpacking the reasons …";
  if (data.decisions) {
    unpack(data.decisions.cards).then(
      (found) => { cards = found; },
      () => { data.unpacking = "this browser cannot unpack the reasons (it lacks DecompressionStream)"; });
  }
  window.marbleReport = { range: () => range.slice(), show, panels: panels.map((panel) => panel.key) };
})();
