// SPDX-License-Identifier: MIT
/**
 * @file Drawing that all parts share: a canvas that follows its size and the colour scheme, lines with axes, histograms,
 * arrows, and handles that a pointer or the arrow keys move.
 */

const names = ['ink', 'muted', 'line', 'grid', 'card', 'accent', 'blue', 'orange', 'blue-soft', 'orange-soft'];
const dark = window.matchMedia('(prefers-color-scheme: dark)');
let cached = null;
dark.addEventListener('change', () => (cached = null));

/** Whether the reader asked the system for less motion. */
export const reducedMotion = () => window.matchMedia('(prefers-reduced-motion: reduce)').matches;

/**
 * The page's colours, from the custom properties of style.css.
 * @returns {Record<'ink'|'muted'|'line'|'grid'|'card'|'accent'|'blue'|'orange'|'blue-soft'|'orange-soft', string>}
 */
export function colours() {
  if (!cached) {
    const style = getComputedStyle(document.documentElement);
    cached = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  }
  return cached;
}

/** The red, green and blue of a colour written as #rrggbb. */
export const rgb = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));

/** A number with so many decimals and a real minus sign; an em dash if it is not finite. */
export const decimal = (x, digits = 2) =>
  Number.isFinite(x) ? (Math.abs(x) < 0.5 * 10 ** -digits ? 0 : x).toFixed(digits).replace('-', '\u2212') : '\u2014';

/** A canvas that is painted in CSS pixels, once an animation frame at most. */
export class Surface {
  /**
   * @param {HTMLCanvasElement} canvas  its size is set by style.css
   * @param {(context: CanvasRenderingContext2D, width: number, height: number) => void} paint
   */
  constructor(canvas, paint) {
    this.canvas = canvas;
    this.paint = paint;
    this.context = canvas.getContext('2d');
    this.requested = false;
    new ResizeObserver(() => this.request()).observe(canvas);
    dark.addEventListener('change', () => this.request());
  }

  /** Paints in the next animation frame. */
  request() {
    if (this.requested) return;
    this.requested = true;
    requestAnimationFrame(() => {
      this.requested = false;
      const {canvas, context} = this;
      const width = canvas.clientWidth, height = canvas.clientHeight, ratio = window.devicePixelRatio || 1;
      if (!width || !height) return;
      const columns = Math.round(width * ratio), rows = Math.round(height * ratio);
      if (canvas.width !== columns || canvas.height !== rows) Object.assign(canvas, {width: columns, height: rows});
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, width, height);
      context.font = '12px system-ui, sans-serif';
      context.save();
      this.paint(context, width, height);
      context.restore();
    });
  }
}

/**
 * Sets a canvas's height to that of its contents.
 * @returns {boolean} false if it had another; it is then painted again.
 */
export function fitHeight(canvas, height) {
  if (Math.abs(canvas.clientHeight - height) <= 1) return true;
  canvas.style.height = `${height}px`;
  return false;
}

/** About `count` round numbers in [low, high]. */
function ticks(low, high, count = 4) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= raw * 0.999);
  const result = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; ++i) result.push(i * step);
  return result;
}

const raised = (text) => text.replace(/[-0-9]/g, (c) => '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'['-0123456789'.indexOf(c)]);

/** A number in scientific notation, with so many decimals. */
export function scientific(x, digits = 1) {
  if (x === 0) return '0';
  const power = Math.floor(Math.log10(Math.abs(x)) + 1e-9), mantissa = decimal(x / 10 ** power, digits);
  return `${mantissa === '1' ? '' : `${mantissa} · `}10${raised(String(power))}`;
}

/** A number at an axis. */
function tickText(x) {
  if (x !== 0 && Math.abs(x) < 0.005) return scientific(x, 0);
  return (Math.abs(x) >= 10000 ? `${x / 1000}k` : String(Number(x.toPrecision(6)))).replace('-', '\u2212');
}

/**
 * Lines over a grid with axes. Of a series with more points than pixels the mean of each pixel's points is drawn.
 * @param {CanvasRenderingContext2D} context
 * @param {{x: number, y: number, width: number, height: number}} box  with the space of the labels
 * @param {object} options
 * @param {[number, number]} options.x  range
 * @param {[number, number]} options.y  range
 * @param {boolean} [options.log]  a logarithmic y axis
 * @param {string} [options.xLabel]
 * @param {string} [options.yLabel]
 * @param {{x: ArrayLike<number>, y: ArrayLike<number>, colour: string, dashed?: boolean}[]} options.series
 */
export function chart(context, box, {x, y, log = false, xLabel = '', yLabel = '', series}) {
  const c = colours();
  const left = box.x + 40, right = box.x + box.width - 16, top = box.y + (yLabel ? 20 : 8), bottom = box.y + box.height - 32;
  const scale = (v) => (log ? Math.log10(Math.max(v, Number.MIN_VALUE)) : v);
  const [low, high] = [scale(y[0]), scale(y[1])];
  const px = (v) => left + ((v - x[0]) / (x[1] - x[0] || 1)) * (right - left);
  const py = (v) => bottom - ((scale(v) - low) / (high - low || 1)) * (bottom - top);
  const yTicks = log
    ? Array.from({length: Math.floor(high + 1e-9) - Math.ceil(low - 1e-9) + 1}, (_, i) => 10 ** (Math.ceil(low - 1e-9) + i))
    : ticks(y[0], y[1]);

  context.lineWidth = 1;
  context.strokeStyle = c.grid;
  context.fillStyle = c.muted;
  context.textBaseline = 'middle';
  context.textAlign = 'right';
  for (const t of yTicks) {
    line(context, left, py(t), right, py(t));
    context.fillText(tickText(t), left - 6, py(t));
  }
  context.textBaseline = 'top';
  context.textAlign = 'center';
  for (const t of ticks(x[0], x[1], Math.max(2, Math.min(5, (right - left) / 70)))) {
    line(context, px(t), bottom, px(t), bottom + 4);
    context.fillText(tickText(t), px(t), bottom + 6);
  }
  context.textAlign = 'right';
  context.fillText(xLabel, right, bottom + 19);
  context.textAlign = 'left';
  context.fillText(yLabel, box.x, box.y);
  context.strokeStyle = c.line;
  line(context, left, bottom, right, bottom);

  context.save();
  context.beginPath();
  context.rect(left - 4, top - 4, right - left + 8, bottom - top + 8);
  context.clip();
  context.lineWidth = 2;
  context.lineJoin = 'round';
  for (const s of series) {
    context.strokeStyle = context.fillStyle = s.colour;
    context.setLineDash(s.dashed ? [5, 4] : []);
    context.beginPath();
    const stride = Math.max(1, Math.ceil(s.x.length / (right - left)));
    for (let i = 0; i < s.x.length; i += stride) {
      const end = Math.min(i + stride, s.x.length);
      let sx = 0, sy = 0;
      for (let j = i; j < end; ++j) { sx += s.x[j]; sy += s.y[j]; }
      context.lineTo(px(sx / (end - i)), py(sy / (end - i)));
    }
    context.stroke();
    context.setLineDash([]);
  }
  context.restore();
}

/**
 * The bars of a histogram over equal bins, the highest as high as the box.
 * @param {CanvasRenderingContext2D} context
 * @param {{x: number, y: number, width: number, height: number}} box
 * @param {ArrayLike<number>} counts
 * @param {string} colour
 */
export function histogram(context, box, counts, colour) {
  const highest = Math.max(...counts) || 1, width = box.width / counts.length;
  context.fillStyle = colour;
  for (let i = 0; i < counts.length; ++i) {
    const height = counts[i] ? Math.max(1, (counts[i] / highest) * box.height) : 0;
    context.fillRect(box.x + i * width, box.y + box.height - height, Math.max(1, width - 1), height);
  }
}

/** A line from (x0, y0) to (x1, y1) in the context's stroke style. */
export function line(context, x0, y0, x1, y1) {
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.stroke();
}

/** A filled disc in the context's fill style. */
export function dot(context, x, y, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
}

/** A line with a head at its end, in one colour. */
export function arrow(context, x0, y0, x1, y1, colour, width = 2) {
  const length = Math.hypot(x1 - x0, y1 - y0);
  if (length < 1) return;
  const ux = (x1 - x0) / length, uy = (y1 - y0) / length, head = Math.min(4 + 2.5 * width, length);
  context.strokeStyle = context.fillStyle = colour;
  context.lineWidth = width;
  line(context, x0, y0, x1 - ux * head * 0.8, y1 - uy * head * 0.8);
  context.beginPath();
  context.moveTo(x1, y1);
  context.lineTo(x1 - ux * head - uy * head * 0.45, y1 - uy * head + ux * head * 0.45);
  context.lineTo(x1 - ux * head + uy * head * 0.45, y1 - uy * head - ux * head * 0.45);
  context.fill();
}

/** A handle over a canvas. A pointer drags it, the arrow keys move it. */
export class Handle {
  /**
   * @param {HTMLElement} stage  the element of class `stage` around the canvas
   * @param {object} options
   * @param {string} options.label  what a screen reader says
   * @param {string} options.text  one or two letters in the handle
   * @param {[number, number]} options.range  of the value that `place` reports
   * @param {(x: number, y: number) => void} options.onDrag  the pointer, in pixels of the stage
   * @param {(right: number, up: number) => void} options.onKey  -1, 0 or 1; ten times as much with Shift
   */
  constructor(stage, {label, text, range, onDrag, onKey}) {
    const element = document.createElement('div');
    element.className = 'handle';
    element.tabIndex = 0;
    element.textContent = text;
    element.setAttribute('role', 'slider');
    element.setAttribute('aria-label', label);
    element.setAttribute('aria-valuemin', range[0]);
    element.setAttribute('aria-valuemax', range[1]);
    element.addEventListener('pointerdown', (event) => {
      element.setPointerCapture(event.pointerId);
      element.focus({preventScroll: true });
      event.preventDefault();
    });
    element.addEventListener('pointermove', (event) => {
      if (!element.hasPointerCapture(event.pointerId)) return;
      const frame = stage.getBoundingClientRect();
      onDrag(event.clientX - frame.left, event.clientY - frame.top);
    });
    element.addEventListener('keydown', (event) => {
      const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[event.key];
      if (!step) return;
      event.preventDefault();
      onKey(...step.map((s) => s * (event.shiftKey ? 10 : 1)));
    });
    stage.append(element);
    this.element = element;
  }

  /**
   * @param {number} x  centre, in pixels of the stage
   * @param {number} y
   * @param {number} value  within the range
   * @param {string} text  the value as a screen reader says it
   */
  place(x, y, value, text) {
    this.element.style.transform = `translate(${x}px, ${y}px)`;
    this.element.setAttribute('aria-valuenow', Number(value.toFixed(3)));
    this.element.setAttribute('aria-valuetext', text);
  }
}
