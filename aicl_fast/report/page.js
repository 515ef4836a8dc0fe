"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { PALETTE, KINDS, AWARE, AGNOSTIC, GRID, TEXT, QUIET } = data.colours;
  const RUNS = PALETTE.slice(0, 2);
  const two = data.runs.length > 1;
  // Of two runs the second is the one the page is about, and the first its baseline.
  const main = data.runs.length - 1;
  // Without ground truth there is nothing to measure: the timelines are all there is.
  const measured = data.runs[main].map !== null;
  const $ = (id) => document.getElementById(id);
  const percent = (value, digits = 1) => (value === null || value === undefined ? "–" : (100 * value).toFixed(digits));
  const signed = (value, digits = 1) => (value === null ? "–" : (value >= 0 ? "+" : "−") + Math.abs(100 * value).toFixed(digits));

  // Scrolls the list and never the page, which must open at its top.
  function reveal(button) {
    const list = $("video-list");
    const frame = list.getBoundingClientRect(), item = button.getBoundingClientRect();
    list.scrollTop += Math.min(0, item.top - frame.top) + Math.max(0, item.bottom - frame.bottom);
  }

  // Every text goes in as text, never as markup: names come from files of any origin.
  function make(tag, attributes = {}, ...children) {
    const svg = ["svg", "g", "rect", "line", "path", "circle", "text", "title"].includes(tag);
    const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  function table(head, rows, options = {}) {
    const body = make("tbody");
    const cells = head.map((text) => make("th", options.sort ? { class: "sortable", scope: "col" } : { scope: "col" }, text));
    const fill = () => body.replaceChildren(...rows.map((row) => make("tr", {}, ...row.map((cell) => {
      const element = make("td", cell.class ? { class: cell.class } : {}, cell.text ?? String(cell));
      if (cell.heat !== undefined && cell.heat !== null) element.style.background = `rgba(0, 114, 178, ${(0.42 * cell.heat).toFixed(3)})`;
      if (cell.title) element.title = cell.title;
      return element;
    }))));
    if (options.sort) {
      cells.forEach((cell, column) => cell.addEventListener("click", () => {
        const ascending = cell.getAttribute("aria-sort") === "descending" || (column === 0 && !cell.hasAttribute("aria-sort"));
        cells.forEach((other) => other.removeAttribute("aria-sort"));
        cell.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        const key = (row) => row[column].sort ?? row[column].text ?? row[column];
        rows.sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) * (ascending ? 1 : -1));
        fill();
      }));
    }
    fill();
    return make("table", {}, make("thead", {}, make("tr", {}, ...cells)), body);
  }

  const verdictClass = (item) => (item.verdict === "within noise" ? "within" : item.verdict);
  function differenceCell(item) {
    if (!item) return "–";
    const interval = item.low === null ? "" : `${signed(item.low)} to ${signed(item.high)}: ${item.verdict}`;
    return { text: signed(item.difference), class: verdictClass(item), title: interval, sort: item.difference };
  }

  // ---- mAP ----------------------------------------------------------------------------------------------
  function precision() {
    $("title").textContent = data.title;
    if (!measured) {
      const detections = data.videos.reduce((sum, video) => sum + video.runs[main].detections.length, 0);
      $("summary").textContent = `${data.videos.length} video${data.videos.length === 1 ? "" : "s"} · ${detections} detections · no annotations, so nothing is measured`;
      for (const id of ["precision", "classes", "errors"]) $(id).hidden = true;
      document.querySelector("nav").hidden = true;
      $("colour-by").parentElement.style.display = "none";
      return;
    }
    const counts = data.runs[main].map.counts;
    $("summary").textContent = `average mAP ${percent(data.runs[main].map.average_mAP)} % · ${counts.videos} videos · ` +
      `${counts.instances} instances · ${counts.detections} detections · subset ${data.runs[main].map.subset}`;
    const head = ["tIoU", ...data.tious.map((t) => String(+t.toFixed(2))), "average"];
    const rows = data.runs.map((run) => [run.name, ...run.map.mAP.map((v) => percent(v)), percent(run.map.average_mAP)]);
    if (two) rows.push(["difference", ...Object.values(data.comparison.at).map(differenceCell), differenceCell(data.comparison.average)]);
    $("map-table").append(table(head, rows));
    if (two) $("map-table").append(make("p", { class: "verdict" }, data.comparison.verdict));
    const recall = data.runs[main].recall;
    $("map-table").append(make("p", { class: "quiet" }, "Average recall of the best N detections a video, labels aside (tIoU " +
      `${recall.tious[0]} to ${recall.tious.at(-1)}):`),
      table(["N", ...recall.numbers], data.runs.map((run) => [run.name, ...run.recall.average.map((v) => percent(v))])));
    if (data.runs.some((run) => run.segments)) {
      $("map-table").append(make("p", { class: "quiet" }, "Segments told apart at the median, % right:"),
        table(["", "class-aware", "class-agnostic", "branches agree", "best possible"], data.runs.filter((run) => run.segments).map((run) =>
          [run.name, ...["aware", "agnostic", "consistent", "ceiling"].map((key) => percent(run.segments[key]))])));
    }
    $("map-chart").append(curveChart());
    const said = new Set(data.runs.flatMap((run) => run.map.warnings));
    $("warnings").append(...[...said].map((text) => make("li", {}, text)));
  }

  function curveChart() {
    const width = 430, height = 250, left = 38, bottom = 30, top = 12, right = 110;
    const low = data.tious[0], high = data.tious.at(-1);
    const x = (t) => left + (high > low ? (t - low) / (high - low) : 0.5) * (width - left - right);
    const y = (v) => top + (1 - v) * (height - top - bottom);
    const chart = make("svg", { width, height, role: "img", "aria-label": "mAP against tIoU" });
    for (let v = 0; v <= 1.001; v += 0.25) {
      chart.append(make("line", { x1: left, x2: width - right, y1: y(v), y2: y(v), stroke: GRID }),
        make("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, `${Math.round(100 * v)}`));
    }
    data.tious.forEach((t) => chart.append(make("text", { x: x(t), y: height - bottom + 18, "text-anchor": "middle" }, String(+t.toFixed(2)))));
    chart.append(make("text", { x: width - right + 22, y: height - bottom + 18 }, "tIoU"));
    let labelled = -99;
    data.runs.map((run, index) => [run, index]).sort((a, b) => b[0].map.mAP.at(-1) - a[0].map.mAP.at(-1)).forEach(([run, index]) => {
      const colour = RUNS[main - index], points = run.map.mAP.map((v, k) => [x(data.tious[k]), y(v)]);
      chart.append(make("path", { d: "M" + points.map((p) => p.join(",")).join("L"), fill: "none", stroke: colour, "stroke-width": 2 }));
      points.forEach((p, k) => chart.append(make("circle", { cx: p[0], cy: p[1], r: 3.2, fill: colour },
        make("title", {}, `${run.name}: ${percent(run.map.mAP[k], 2)} % at ${data.tious[k]}`))));
      labelled = Math.max(points.at(-1)[1] + 4, labelled + 14);
      chart.append(make("text", { x: points.at(-1)[0] + 9, y: labelled, style: `fill:${colour};font-weight:600` }, run.name));
    });
    return chart;
  }

  // ---- classes ------------------------------------------------------------------------------------------
  function classes() {
    const run = data.runs[main].map;
    const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
    const measured = data.classes.filter((name) => run.per_class[name].every((v) => v !== null));
    const rows = measured.map((name) => {
      const values = run.per_class[name];
      const row = [name, { text: String(run.instances[name]), sort: run.instances[name] },
        ...values.map((v) => ({ text: percent(v), sort: v, heat: v })), { text: percent(mean(values)), sort: mean(values), heat: mean(values) }];
      if (two) row.push({ text: percent(mean(data.runs[0].map.per_class[name])), sort: mean(data.runs[0].map.per_class[name]) }, differenceCell(data.comparison.per_class[name]));
      return row;
    });
    rows.sort((a, b) => a[data.tious.length + 2].sort - b[data.tious.length + 2].sort);
    const head = ["class", "instances", ...data.tious.map((t) => String(+t.toFixed(2))), "average"];
    if (two) head.push(data.runs[0].name, "difference");
    $("class-table").append(table(head, rows, { sort: true }));
  }

  // ---- errors -------------------------------------------------------------------------------------------
  function errors() {
    const keys = make("div", {}, ...data.errors.map((name, k) => key(KINDS[k], name)));
    $("error-charts").append(keys);
    data.runs.slice().reverse().forEach((run) => {
      const group = make("div", { class: "charts" }, profileChart(run), gainChart(run), missedChart(run));
      if (two) $("error-charts").append(make("h3", {}, run.name));
      $("error-charts").append(group);
    });
  }

  const key = (colour, text) => {
    const swatch = make("i");
    if (colour) swatch.style.background = colour; else swatch.className = "outlined";
    return make("span", { class: "key" }, swatch, text);
  };
  const figure = (caption, chart) => make("figure", {}, make("figcaption", {}, caption), chart);

  function profileChart(run) {
    const { profile, tiou, factor } = run.diagnosis;
    const width = 350, height = 230, left = 30, bottom = 40, top = 6, step = (width - left) / factor;
    const y = (v) => top + (1 - v) * (height - top - bottom);
    const chart = make("svg", { width, height, role: "img", "aria-label": "false positive profile" });
    [0, 0.5, 1].forEach((v) => chart.append(make("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, `${100 * v}`)));
    profile.forEach((row, index) => {
      const total = row.reduce((a, b) => a + b, 0) || 1;
      let sum = 0;
      row.forEach((count, kind) => {
        const share = count / total;
        chart.append(make("rect", { x: left + index * step + 2, width: step - 4, y: y(sum + share), height: Math.max(0, y(sum) - y(sum + share)), fill: KINDS[kind] },
          make("title", {}, `${data.errors[kind]}: ${count} (${percent(share)} %)`)));
        sum += share;
      });
      chart.append(make("text", { x: left + (index + 0.5) * step, y: height - bottom + 15, "text-anchor": "middle" }, `${index + 1}G`));
    });
    chart.append(make("text", { x: left, y: height - 6 }, "each class's best G detections, the next G, …"));
    return figure(`What detections are (tIoU ${tiou}), %`, chart);
  }

  function gainChart(run) {
    const gains = data.errors.slice(1).map((name) => run.diagnosis.gains[name]);
    const width = 330, height = 230, left = 108, row = 36, right = 52;
    const most = Math.max(...gains, 0.005);
    const chart = make("svg", { width, height, role: "img", "aria-label": "mAP gained without each error" });
    gains.forEach((gain, k) => {
      const length = (gain / most) * (width - left - right);
      chart.append(make("text", { x: left - 8, y: k * row + 26, "text-anchor": "end" }, data.errors[k + 1]),
        make("rect", { x: left, y: k * row + 11, width: Math.max(0, length), height: 22, fill: KINDS[k + 1] }),
        make("text", { x: left + length + 6, y: k * row + 26 }, signed(gain)));
    });
    return figure("Points of average mAP gained without them", chart);
  }

  function missedChart(run) {
    const names = { length: "length (s)", coverage: "share of video", instances: "instances in video" };
    const groups = Object.entries(run.diagnosis.missed);
    const bars = groups.reduce((sum, entry) => sum + entry[1].length, 0);
    const step = 30, gap = 18, left = 30, height = 230, bottom = 56, top = 16, width = left + bars * step + groups.length * gap;
    const y = (v) => top + (1 - v) * (height - top - bottom);
    const chart = make("svg", { width, height, role: "img", "aria-label": "missed instances" });
    [0, 0.5, 1].forEach((v) => chart.append(make("line", { x1: left, x2: width, y1: y(v), y2: y(v), stroke: GRID }),
      make("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, `${100 * v}`)));
    let x = left;
    groups.forEach(([name, items]) => {
      chart.append(make("text", { x: x + (items.length * step) / 2, y: height - 6, "text-anchor": "middle", style: "font-weight:600" }, names[name]));
      items.forEach((item) => {
        const share = item.instances ? item.missed / item.instances : 0;
        chart.append(make("rect", { x: x + 4, width: step - 8, y: y(share), height: y(0) - y(share), fill: "#D55E00" },
            make("title", {}, `${item.name}${item.upper === null ? "" : `, up to ${item.upper}`}: ${item.missed} of ${item.instances} missed`)),
          make("text", { x: x + step / 2, y: y(share) - 4, "text-anchor": "middle" }, item.instances ? Math.round(100 * share) : "–"),
          make("text", { x: x + step / 2, y: y(0) + 14, "text-anchor": "middle" }, item.name),
          make("text", { x: x + step / 2, y: y(0) + 28, "text-anchor": "middle", style: `fill:${QUIET};font-size:10px` }, item.instances));
        x += step;
      });
      x += gap;
    });
    return figure(`Missed instances (tIoU ${run.diagnosis.tiou}), %`, chart);
  }

  // ---- list of videos -----------------------------------------------------------------------------------
  const ap = (video) => video.runs[main].ap;
  // Worst first; videos without instances have no AP and come last.
  const order = data.videos.map((_, index) => index).sort((a, b) => (ap(data.videos[a]) ?? 2) - (ap(data.videos[b]) ?? 2));
  const words = data.videos.map((video) => [video.name, ...new Set([...video.truth.map((t) => data.classes[t[0]])])].join(" ").toLowerCase());
  let listed = [];

  function list() {
    const wanted = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    listed = order.filter((index) => wanted.every((word) => words[index].includes(word)));
    $("found").textContent = `${listed.length} of ${data.videos.length} videos` + (measured ? ", worst first (AP of the video alone, %)" : "");
    $("video-list").replaceChildren(...listed.map((index) => {
      const video = data.videos[index], labels = [...new Set(video.truth.map((t) => data.classes[t[0]]))];
      const button = make("button", { type: "button", "data-video": video.name },
        make("span", { class: "name" }, video.name, make("small", {}, labels.join(", ") || "no annotation")),
        make("span", { class: "ap" }, measured ? percent(ap(video), 0) + (two ? ` (${percent(video.runs[0].ap, 0)})` : "") : ""));
      button.addEventListener("click", () => select(index));
      if (index === state.index) button.setAttribute("aria-current", "true");
      return make("li", {}, button);
    }));
  }

  // ---- one video ----------------------------------------------------------------------------------------
  const state = { index: -1, low: 0, high: 1, threshold: 0, hover: null };
  const LANES = 4, canvas = $("timeline"), pen = canvas.getContext("2d");
  let scene = { rows: [], height: 0 };
  const unpack = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const cache = new Map();

  function curves(index, run) {
    const id = `${index} ${run}`;
    if (!cache.has(id)) {
      const entry = data.videos[index].runs[run];
      cache.set(id, entry.aware ? {
        seconds: entry.seconds, aware: unpack(entry.aware), agnostic: unpack(entry.agnostic),
        fused: Object.entries(entry.fused).map(([label, text]) => [Number(label), unpack(text)]),
      } : null);
    }
    return cache.get(id);
  }

  function select(index) {
    const video = data.videos[index];
    Object.assign(state, { index, low: 0, high: video.duration, hover: null });
    const scores = video.runs.flatMap((run) => run.detections.map((d) => d[1]));
    state.least = Math.min(0, ...scores);
    state.most = Math.max(...scores, state.least + 1e-3);
    state.threshold = scores.length && state.most > 0 ? Math.max(state.least, 0.25 * state.most) : state.least;
    $("threshold").value = Math.round(1000 * (state.threshold - state.least) / (state.most - state.least));
    $("video-name").textContent = video.name;
    for (const button of $("video-list").querySelectorAll("button")) {
      const current = button.dataset.video === video.name;
      if (current) { button.setAttribute("aria-current", "true"); reveal(button); } else button.removeAttribute("aria-current");
    }
    const player = $("player");
    player.replaceChildren();
    if (video.media) {
      const element = make("video", { controls: "", preload: "metadata", src: video.media });
      element.addEventListener("timeupdate", draw);
      player.append(element);
    } else if (data.videos.some((each) => each.media)) {
      player.append(make("p", { class: "quiet" }, "No file of this video among the media."));
    }
    history.replaceState(null, "", `#video=${encodeURIComponent(video.name)}`);
    arrange();
  }

  const colourOf = (video) => {
    const labels = [...new Set([...video.truth.map((t) => t[0]), ...video.runs.flatMap((run) => run.detections.map((d) => d[0]))])];
    return new Map(labels.map((label, k) => [label, PALETTE[k % PALETTE.length]]));
  };

  // What is drawn where: rows from top to bottom, and of every bar its lane.
  function arrange() {
    const video = data.videos[state.index], colours = colourOf(video), byKind = $("colour-by").value === "kind";
    $("threshold-value").textContent = state.threshold.toFixed(3);
    const rows = [], used = new Set();
    let y = 4, kept = 0, all = 0;
    const add = (row) => { rows.push({ ...row, y }); y += row.height; };
    const annotated = [...new Set(video.truth.map((t) => t[0]))];
    const truthRow = (label) => add({ kind: "truth", label, height: 17, bars: video.truth.filter((t) => t[0] === label).map((t) => ({ start: t[1], end: t[2] })) });
    video.runs.map((_, run) => run).reverse().forEach((run) => {
      const curve = curves(state.index, run);
      if (two) add({ kind: "title", text: data.runs[run].name, height: 24 });
      if (curve) {
        add({ kind: "actionness", run, height: 84 });
        add({ kind: "gap", height: 8 });
        add({ kind: "fused", run, height: 84 });
        add({ kind: "gap", height: 10 });
      }
      const detections = video.runs[run].detections.filter((d) => d[1] >= state.threshold);
      kept += detections.length;
      all += video.runs[run].detections.length;
      const labels = [...new Set([...annotated, ...detections.map((d) => d[0])])];
      labels.forEach((label) => {
        used.add(label);
        const lanes = [[]];
        let hidden = 0;
        detections.filter((d) => d[0] === label).forEach((d) => {
          let lane = lanes.findIndex((bars) => bars.every((bar) => d[3] <= bar.start || d[2] >= bar.end));
          if (lane < 0 && lanes.length < LANES) lane = lanes.push([]) - 1;
          if (lane < 0) hidden += 1; else lanes[lane].push({ start: d[2], end: d[3], score: d[1], error: d[4] });
        });
        const first = rows.length;
        if (annotated.includes(label)) truthRow(label);
        lanes.forEach((bars) => add({ kind: "detections", label, run, height: 15, bars }));
        rows[first].name = data.classes[label] + (hidden ? ` (${hidden} more)` : "");
        add({ kind: "gap", height: 8 });
      });
      if (!labels.length) add({ kind: "title", text: "nothing at this score", height: 24 });
    });
    $("shown").textContent = `${kept} of ${all} detections`;
    $("legend").replaceChildren(...(byKind ? data.errors.map((name, k) => key(KINDS[k], name)) : []),
      ...(video.runs.some((run) => run.aware) ? [key(AWARE, "class-aware actionness"), key(AGNOSTIC, "class-agnostic actionness")] : []),
      ...(measured ? [key("", "ground truth (outlined)")] : []), ...(byKind ? [] : [key("#616E7C", "detected (paler: lower score)")]));
    const best = Math.max(...video.runs.flatMap((run) => run.detections.map((d) => d[1])), 1e-6);
    scene = { rows, height: y + 30, colours, byKind, best };
    draw();
  }

  const LEFT = 132, RIGHT = 24;
  const x = (time) => LEFT + ((time - state.low) / (state.high - state.low)) * (canvas.clientWidth - LEFT - RIGHT);
  const timeAt = (position) => state.low + ((position - LEFT) / (canvas.clientWidth - LEFT - RIGHT)) * (state.high - state.low);

  function draw() {
    if (state.index < 0) return;
    const video = data.videos[state.index], ratio = window.devicePixelRatio || 1, width = canvas.clientWidth;
    canvas.style.height = `${scene.height}px`;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(scene.height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(scene.height * ratio);
    }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, scene.height);
    pen.font = "11.5px system-ui, 'DejaVu Sans', sans-serif";
    const bottom = scene.height - 24;
    ticks(bottom);
    pen.save();
    pen.beginPath();
    pen.rect(LEFT, 0, width - LEFT - RIGHT, bottom);
    pen.clip();
    for (const row of scene.rows) {
      if (row.kind === "actionness" || row.kind === "fused") charted(video, row);
      else if (row.bars) bars(row);
    }
    pen.restore();
    pen.textBaseline = "middle";
    for (const row of scene.rows) {
      pen.textAlign = "right";
      pen.fillStyle = TEXT;
      if (row.kind === "actionness") pen.fillText("actionness", LEFT - 10, row.y + row.height / 2);
      if (row.kind === "fused") pen.fillText("fused score", LEFT - 10, row.y + row.height / 2);
      if (row.kind === "title") { pen.textAlign = "left"; pen.font = "600 12.5px system-ui, sans-serif"; pen.fillText(row.text, LEFT, row.y + row.height / 2); pen.font = "11.5px system-ui, sans-serif"; }
      if (row.name) { pen.fillStyle = scene.colours.get(row.label); pen.font = "600 11.5px system-ui, sans-serif"; pen.fillText(row.name, LEFT - 10, row.y + 9, LEFT - 14); pen.font = "11.5px system-ui, sans-serif"; }
    }
    const player = $("player").firstChild;
    if (player) rule(player.currentTime, "#D55E00", bottom);
    if (state.hover !== null) rule(state.hover, QUIET, bottom);
  }

  function rule(time, colour, bottom) {
    if (time < state.low || time > state.high) return;
    pen.strokeStyle = colour;
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(x(time), 0);
    pen.lineTo(x(time), bottom);
    pen.stroke();
  }

  function ticks(bottom) {
    const span = state.high - state.low, rough = span / 10, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
    pen.textAlign = "center";
    pen.textBaseline = "top";
    pen.fillStyle = QUIET;
    pen.strokeStyle = GRID;
    pen.lineWidth = 1;
    for (let t = Math.ceil(state.low / step) * step; t <= state.high + 1e-9; t += step) {
      pen.beginPath();
      pen.moveTo(x(t), 0);
      pen.lineTo(x(t), bottom);
      pen.stroke();
      pen.fillText(`${+t.toFixed(3)} s`, x(t), bottom + 6);
    }
  }

  function charted(video, row) {
    const top = row.y, height = row.height, entry = curves(state.index, row.run);
    for (const [label, start, end] of video.truth) {
      pen.fillStyle = scene.colours.get(label);
      pen.globalAlpha = 0.1;
      pen.fillRect(x(start), top, x(end) - x(start), height);
    }
    pen.globalAlpha = 1;
    pen.strokeStyle = "#CBD2D9";
    pen.strokeRect(LEFT + 0.5, top + 0.5, canvas.clientWidth - LEFT - RIGHT - 1, height - 1);
    const line = (values, colour, thickness, fill) => {
      const step = entry.seconds / values.length, y = (v) => top + height - 2 - (v / 255) * (height - 4);
      const first = Math.max(0, Math.floor(state.low / step) - 1), last = Math.min(values.length - 1, Math.ceil(state.high / step) + 1);
      pen.beginPath();
      for (let i = first; i <= last; i++) pen.lineTo(x(i * step), y(values[i]));
      pen.strokeStyle = colour;
      pen.lineWidth = thickness;
      pen.stroke();
      if (fill) {
        pen.lineTo(x(last * step), top + height);
        pen.lineTo(x(first * step), top + height);
        pen.fillStyle = colour;
        pen.globalAlpha = 0.22;
        pen.fill();
        pen.globalAlpha = 1;
      }
    };
    if (row.kind === "actionness") {
      if ($("show-agnostic").checked) line(entry.agnostic, AGNOSTIC, 1.5, true);
      if ($("show-aware").checked) line(entry.aware, AWARE, 1.4, false);
    } else {
      entry.fused.forEach(([label, values], k) => line(values, scene.colours.get(label) ?? QUIET, k === 0 && entry.fused.length > 1 ? 2.6 : 1.5, false));
    }
  }

  function bars(row) {
    for (const bar of row.bars) {
      const left = x(bar.start), width = Math.max(1, x(bar.end) - left);
      if (row.kind === "truth") {
        pen.strokeStyle = scene.colours.get(row.label);
        pen.lineWidth = 1.6;
        pen.strokeRect(left + 0.8, row.y + 2.8, Math.max(0.5, width - 1.6), row.height - 6.6);
      } else {
        pen.fillStyle = scene.byKind ? KINDS[bar.error] : scene.colours.get(row.label);
        pen.globalAlpha = scene.byKind ? 1 : 0.22 + 0.78 * Math.min(1, Math.max(0, bar.score) / scene.best);
        pen.fillRect(left, row.y + 1.5, width, row.height - 3);
        pen.globalAlpha = 1;
      }
    }
  }

  function describe(px, py) {
    const time = timeAt(px), lines = [`${time.toFixed(2)} s`];
    const row = scene.rows.find((item) => py >= item.y && py < item.y + item.height);
    if (!row) return lines.join("\n");
    if (row.kind === "actionness" || row.kind === "fused") {
      const entry = curves(state.index, row.run);
      const at = (values) => (values[Math.min(values.length - 1, Math.max(0, Math.round(time / (entry.seconds / values.length))))] / 255).toFixed(2);
      if (row.kind === "actionness") lines.push(`class-aware ${at(entry.aware)}`, `class-agnostic ${at(entry.agnostic)}`);
      else entry.fused.forEach(([label, values]) => lines.push(`${data.classes[label]} ${at(values)}`));
    }
    const bar = row.bars?.find((item) => time >= item.start && time <= item.end);
    if (bar) {
      lines.push(`${data.classes[row.label]}  ${bar.start.toFixed(2)} to ${bar.end.toFixed(2)} s`);
      lines.push(row.kind === "truth" ? "ground truth" : `score ${bar.score.toFixed(3)}` + (bar.error === null ? "" : `, ${data.errors[bar.error]}`));
    }
    return lines.join("\n");
  }

  function zoom(centre, factor) {
    const duration = data.videos[state.index].duration;
    const span = Math.min(duration, Math.max(duration / 2000, (state.high - state.low) * factor));
    const share = (centre - state.low) / (state.high - state.low);
    state.low = Math.min(Math.max(0, centre - share * span), duration - span);
    state.high = state.low + span;
    draw();
  }

  function listen() {
    let drag = null;
    canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(timeAt(event.offsetX), event.deltaY > 0 ? 1.25 : 0.8); }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => { drag = { px: event.offsetX, low: state.low, moved: false }; canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointerup", (event) => {
      const player = $("player").firstChild;
      if (drag && !drag.moved && player) player.currentTime = Math.max(0, timeAt(event.offsetX));
      drag = null;
    });
    canvas.addEventListener("pointermove", (event) => {
      if (drag) {
        drag.moved ||= Math.abs(event.offsetX - drag.px) > 3;
        const span = state.high - state.low, shift = ((event.offsetX - drag.px) / (canvas.clientWidth - LEFT - RIGHT)) * span;
        state.low = Math.min(Math.max(0, drag.low - shift), data.videos[state.index].duration - span);
        state.high = state.low + span;
      }
      state.hover = event.offsetX >= LEFT ? timeAt(event.offsetX) : null;
      draw();
      const tip = $("tip");
      tip.hidden = state.hover === null;
      if (state.hover === null) return;
      tip.textContent = describe(event.offsetX, event.offsetY);
      const toLeft = event.offsetX > canvas.clientWidth - 240;
      tip.style.left = toLeft ? "" : `${event.offsetX + 14}px`;
      tip.style.right = toLeft ? `${canvas.clientWidth - event.offsetX + 14}px` : "";
      tip.style.top = `${event.offsetY + 12}px`;
    });
    canvas.addEventListener("pointerleave", () => { state.hover = null; $("tip").hidden = true; draw(); });
    const whole = () => { state.low = 0; state.high = data.videos[state.index].duration; draw(); };
    canvas.addEventListener("dblclick", whole);
    canvas.addEventListener("keydown", (event) => {
      const centre = (state.low + state.high) / 2;
      if (event.key === "+") zoom(centre, 0.8);
      else if (event.key === "-") zoom(centre, 1.25);
      else if (event.key === "0") whole();
    });
    $("reset").addEventListener("click", whole);
    $("threshold").addEventListener("input", (event) => {
      state.threshold = state.least + (Number(event.target.value) / 1000) * (state.most - state.least);
      arrange();
    });
    for (const id of ["show-aware", "show-agnostic"]) $(id).addEventListener("change", draw);
    $("colour-by").addEventListener("change", arrange);
    $("search").addEventListener("input", list);
    $("video-list").addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step || !listed.length) return;
      event.preventDefault();
      const next = Math.min(listed.length - 1, Math.max(0, listed.indexOf(state.index) + step));
      select(listed[next]);
      $("video-list").children[next].firstChild.focus();
    });
    window.addEventListener("resize", draw);
  }

  precision();
  if (measured) {
    classes();
    errors();
  }
  const named = /^#video=(.*)$/.exec(location.hash);
  list();
  listen();
  let asked = -1;
  try {
    asked = named ? data.videos.findIndex((video) => video.name === decodeURIComponent(named[1])) : -1;
  } catch { /* an address that somebody changed */ }
  if (data.videos.length) select(asked >= 0 ? asked : order[0]);
  document.documentElement.dataset.ready = "yes";
})();
