"use strict";
// Zooming for the timelines, and opening what a link of the page points to. It reads numbers only
// (the element "charts") and writes with textContent, setAttribute and hidden, never as markup.
(() => {
  const COLUMNS = 160;
  const HEIGHT = 40;
  const LEAST_HEIGHT = 4;
  const LEAST_SHOWN = 4; // columns of the data
  const LEAST_DRAG = 0.01; // of the width; a shorter one is a click

  const data = JSON.parse(document.getElementById("charts").textContent);
  for (const chart of data.charts) {
    const figure = document.querySelector(`figure[data-chart="${chart.name}"]`);
    if (figure !== null && chart.count > LEAST_SHOWN) start(figure, chart);
  }
  addEventListener("hashchange", openTarget);
  openTarget();

  function openTarget() {
    const name = location.hash.slice(1);
    const target = /^[a-z0-9-]+$/.test(name) ? document.getElementById(name) : null;
    for (let one = target; one !== null; one = one.parentElement) {
      if (one.localName === "details") one.open = true;
    }
    if (target !== null) target.scrollIntoView();
  }

  function start(figure, chart) {
    const whole = chart.count;
    const lanes = [...figure.querySelectorAll("[data-lane]")].map((lane) => ({
      counts: chart.lanes[lane.dataset.lane],
      name: lane.dataset.lane,
      svg: lane.querySelector("svg"),
      path: lane.querySelector("path"),
      selected: lane.querySelector("rect"),
      most: lane.querySelector(".lane-most"),
    }));
    const marks = [...figure.querySelectorAll(".axis span")];
    const rows = [...figure.parentElement.querySelectorAll(".records tr[data-offset]")];
    const days = new Set([0, whole].map((at) => text(at, true).slice(0, 10)));
    let from = 0;
    let to = whole;
    let dragged = null;

    const shown = make("p", "shown");
    shown.setAttribute("role", "status");
    const pointed = make("p", "pointed");
    pointed.setAttribute("aria-hidden", "true");
    const bar = make("div", "zoom");
    bar.setAttribute("role", "group");
    bar.setAttribute("aria-label", "Zoom of the timeline: plus, minus, arrow keys, 0 for all");
    const buttons = {
      in: button("Zoom in", () => zoom(0.5)),
      out: button("Zoom out", () => zoom(2)),
      earlier: button("Earlier", () => move(-0.5)),
      later: button("Later", () => move(0.5)),
      all: button("All", () => show(0, whole)),
    };
    bar.append(...Object.values(buttons));
    figure.prepend(bar, shown, pointed);
    bar.addEventListener("keydown", (event) => {
      const act = {
        "+": () => zoom(0.5),
        "-": () => zoom(2),
        "0": () => show(0, whole),
        ArrowLeft: () => move(-0.25),
        ArrowRight: () => move(0.25),
      }[event.key];
      if (act === undefined) return;
      event.preventDefault();
      act();
    });
    for (const lane of lanes) listen(lane.svg);
    show(0, whole);

    function make(kind, name) {
      const made = document.createElement(kind);
      made.className = name;
      return made;
    }

    function button(label, act) {
      const made = make("button", "");
      made.type = "button";
      made.textContent = label;
      made.addEventListener("click", act);
      return made;
    }

    function text(at, withDay) {
      const iso = new Date(chart.begin + at * chart.width).toISOString();
      return (withDay ? `${iso.slice(0, 10)} ` : "") + iso.slice(11, 23);
    }

    function time(at) {
      return text(at, days.size > 1);
    }

    function zoom(factor) {
      const half = Math.max(LEAST_SHOWN, (to - from) * factor) / 2;
      const middle = (from + to) / 2;
      show(middle - half, middle + half);
    }

    function move(share) {
      const length = to - from;
      const begin = Math.min(Math.max(from + length * share, 0), whole - length);
      show(begin, begin + length);
    }

    function show(begin, end) {
      const least = Math.min(LEAST_SHOWN, whole);
      from = Math.min(Math.max(0, Math.floor(begin)), whole - least);
      to = Math.min(whole, Math.max(Math.ceil(end), from + least));
      draw();
    }

    function draw() {
      const together = Math.max(1, Math.ceil((to - from) / COLUMNS));
      const number = Math.ceil((to - from) / together);
      const unit = COLUMNS / number;
      const sums = [];
      for (const lane of lanes) {
        const counts = new Array(number).fill(0);
        for (const [place, count] of lane.counts) {
          if (place >= from && place < to) counts[Math.floor((place - from) / together)] += count;
        }
        const most = Math.max(...counts);
        lane.path.setAttribute("d", path(counts, most, unit));
        lane.most.textContent = `max ${most.toLocaleString("en")}`;
        lane.drawn = { counts, together, number };
        const sum = counts.reduce((left, right) => left + right, 0).toLocaleString("en");
        sums.push(`${sum} ${lane.name}`);
      }
      marks.forEach((mark, place) => {
        mark.textContent = time(from + ((to - from) * place) / (marks.length - 1));
      });
      let inside = 0;
      for (const row of rows) {
        const place = Math.min(Math.floor(Number(row.dataset.offset) / chart.width), whole - 1);
        row.hidden = place < from || place >= to;
        inside += row.hidden ? 0 : 1;
      }
      const listed = rows.length ? ` ${inside} of ${rows.length} listed records.` : "";
      shown.textContent = `${time(from)} – ${time(to)} UTC: ${sums.join(", ")}.${listed}`;
      buttons.in.disabled = to - from <= LEAST_SHOWN;
      buttons.out.disabled = buttons.all.disabled = from === 0 && to === whole;
      buttons.earlier.disabled = from === 0;
      buttons.later.disabled = to === whole;
    }

    function path(counts, most, unit) {
      let drawn = "";
      counts.forEach((count, place) => {
        if (count === 0) return;
        const top = HEIGHT - Math.max(LEAST_HEIGHT, Math.round((count * (HEIGHT - 1)) / most));
        const begin = (place * unit).toFixed(2);
        drawn += `M${begin} ${HEIGHT}V${top}H${((place + 0.86) * unit).toFixed(2)}V${HEIGHT}Z`;
      });
      return drawn;
    }

    function share(svg, event) {
      const box = svg.getBoundingClientRect();
      return Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    }

    function select(begin, end) {
      for (const lane of lanes) {
        lane.selected.setAttribute("x", Math.min(begin, end) * COLUMNS);
        lane.selected.setAttribute("width", Math.abs(end - begin) * COLUMNS);
      }
    }

    function point(at) {
      const { together, number } = lanes[0].drawn;
      const place = Math.min(Math.floor(at * number), number - 1);
      const sums = lanes.map((lane) => `${lane.drawn.counts[place]} ${lane.name}`);
      pointed.textContent = `${time(from + place * together)}: ${sums.join(", ")}`;
    }

    function listen(svg) {
      svg.addEventListener("pointerdown", (event) => {
        if (event.button !== 0) return;
        dragged = share(svg, event);
        svg.setPointerCapture(event.pointerId);
      });
      svg.addEventListener("pointermove", (event) => {
        const at = share(svg, event);
        point(at);
        if (dragged !== null) select(dragged, at);
      });
      svg.addEventListener("pointerup", (event) => {
        if (dragged === null) return;
        const [begin, end] = [dragged, share(svg, event)].sort((left, right) => left - right);
        dragged = null;
        select(0, 0);
        if (end - begin >= LEAST_DRAG) {
          const length = to - from;
          show(from + begin * length, from + end * length);
        }
      });
      svg.addEventListener("pointercancel", () => {
        dragged = null;
        select(0, 0);
      });
      svg.addEventListener("pointerleave", () => {
        pointed.textContent = "";
      });
      svg.addEventListener(
        "wheel",
        (event) => {
          if (!event.ctrlKey) return; // without it the page scrolls
          event.preventDefault();
          const at = from + share(svg, event) * (to - from);
          const factor = event.deltaY < 0 ? 0.8 : 1.25;
          show(at - (at - from) * factor, at + (to - at) * factor);
        },
        { passive: false },
      );
    }
  }
})();
