// SPDX-License-Identifier: MIT
/** @file The part "depth": a DeltaResNet learns two classes of points, and what its gates do is shown layer by layer. */
import {program} from './code.js';
import {complain, seed, select} from './controls.js';
import {Surface, chart, colours, decimal, dot, histogram, line, rgb} from './draw.js';

const defaults = {data: 'spirals', update: 'delta', depth: 6, width: 16, channels: 2, learningRate: 0.003, batch: 32, seed: 1};
const rules = {
  delta: 'Y = X + β k (v − X<sup>T</sup>k)<sup>T</sup>: a layer reads, compares and writes the difference.',
  write_only: 'Y = X + β k v<sup>T</sup>: a layer writes and does not read.',
  additive: 'Y = X + k̃ 1<sup>T</sup>: a layer adds its output, as in a residual network. It has no gate and no target.',
};
/** The points that "your own" begins with: x, y, class. */
const firstPoints = [
  [-0.6, 0.5, 0], [-0.35, 0.65, 0], [-0.5, 0.25, 0], [0.5, -0.45, 0], [0.3, -0.6, 0], [0.65, -0.25, 0],
  [0.5, 0.55, 1], [0.3, 0.35, 1], [0.65, 0.3, 1], [-0.45, -0.5, 1], [-0.65, -0.35, 1], [-0.3, -0.65, 1],
];
const longestCurve = 1200;  // points of the loss curve that are kept

const html = `
  <form class="panel stack">
    <div class="settings">
      ${select('data', 'Points', ['spirals', 'circles', 'xor', ['own', 'your own']], defaults.data)}
      ${select('update', 'Update rule', ['delta', ['write_only', 'write-only'], 'additive'], defaults.update)}
      ${select('depth', 'Layers', [1, 2, 3, 4, 6, 8, 12], defaults.depth)}
      ${select('width', 'Width d', [4, 8, 16, 32], defaults.width)}
      ${select('channels', 'Channels m', [1, 2, 4, 8], defaults.channels)}
      ${select('learningRate', 'Learning rate', [0.001, 0.003, 0.01, 0.03, 0.1], defaults.learningRate)}
      ${select('batch', 'Batch size', [8, 16, 32, 64, 128], defaults.batch)}
      ${seed(defaults.seed)}
    </div>
    <p class="note" data-out="rule"></p>
    <div class="row">
      <div class="controls">
        <button type="button" class="primary" name="run">Start</button>
        <button type="button" name="step">Step</button>
        <button type="button" name="reset">Reset</button>
        ${select('speed', 'Speed', [[1, '1 step a frame'], [4, '4 steps a frame'], [0, 'as fast as it can']], 1)}
      </div>
      <dl class="figures">
        <div><dt>Step</dt><dd data-out="step">0</dd></div>
        <div><dt>Train loss</dt><dd data-out="trainLoss"></dd></div>
        <div><dt>Test loss</dt><dd data-out="testLoss"></dd></div>
        <div><dt data-out="correctOf">Test correct</dt><dd data-out="correct"></dd></div>
        <div><dt>Parameters</dt><dd data-out="parameters"></dd></div>
      </dl>
    </div>
    <p class="error" role="alert" hidden></p>
  </form>
  <div class="depth">
    <div class="panel">
      <h3>Decision regions</h3>
      <div class="stage"><canvas class="square" role="img" data-canvas="regions"></canvas></div>
      <p class="keys">
        <span class="key"><i class="dot" style="--colour: var(--blue)"></i>class 0</span>
        <span class="key"><i class="dot" style="--colour: var(--orange)"></i>class 1</span>
        <span class="key" data-test><i class="ring" style="--colour: var(--muted)"></i>a ring: a test point</span>
      </p>
      <fieldset class="own" hidden>
        <legend class="visually-hidden">Your own points</legend>
        <div class="controls">
          <label class="check"><input type="radio" name="class" value="0" checked> blue</label>
          <label class="check"><input type="radio" name="class" value="1"> orange</label>
          <button type="button" name="undo">Remove the last</button>
          <button type="button" name="clear">Remove all</button>
        </div>
        <p class="note">Click the picture to add a point of the chosen class. On the keyboard: select the picture, move the cross with the arrow keys, add a point with Space.</p>
      </fieldset>
    </div>
    <div class="stack">
      <div class="panel">
        <h3>Loss</h3>
        <canvas class="wide" role="img" data-canvas="loss"></canvas>
        <p class="keys">
          <span class="key"><i style="--colour: var(--blue)"></i>train</span>
          <span class="key" data-test><i class="dashed" style="--colour: var(--orange)"></i>test</span>
        </p>
      </div>
      <div class="panel">
        <h3>What each layer does with the <span data-out="audited">test</span> points</h3>
        <canvas role="img" data-canvas="layers"></canvas>
        <p class="keys" data-gates>
          <span class="key"><i class="box" style="--colour: var(--blue)"></i>share of points by <var>β</var></span>
          <span class="key"><i class="ring" style="--colour: var(--muted)"></i>discrepancy |<var>v</var> − <var>X</var><sup>T</sup><var>k</var>| before the edit</span>
          <span class="key"><i class="dot" style="--colour: var(--orange)"></i>after it</span>
        </p>
      </div>
    </div>
  </div>
  <details class="panel">
    <summary>The C++ program for these settings</summary>
    <p class="note">It makes as many steps as the network above has made, and prints the same loss and accuracy, up to rounding.</p>
    <p class="row"><button type="button" name="copy">Copy</button><output data-out="copied" aria-live="polite"></output></p>
    <pre tabindex="0" aria-label="C++ program"><code></code></pre>
  </details>`;

/**
 * Builds the part.
 * @param {HTMLElement} element
 * @param {(handlers: object) => Promise<import('./engine.js').Engine>} loadEngine
 */
export async function mount(element, loadEngine) {
  const engine = await loadEngine({onFrame, onStop});
  element.innerHTML = html;
  const form = element.querySelector('form'), own = element.querySelector('.own');
  const out = (name) => element.querySelector(`[data-out="${name}"]`);
  const button = (name) => element.querySelector(`button[name="${name}"]`);
  const canvas = (name) => element.querySelector(`[data-canvas="${name}"]`);
  const pixels = document.createElement('canvas');  // the decision regions, a pixel for each grid point
  const cross = {x: 0, y: 0};

  let points = firstPoints.slice();
  let data = {train: {points: [], labels: []}, test: {points: [], labels: []}};
  let curve = {step: [], train: [], test: []}, every = 1, measured = 0;
  let frame = null, regions = null, running = false;

  function settings() {
    const value = (name) => form.elements[name].value, number = (name) => Number(value(name));
    const chosen = {
      data: value('data'), update: value('update'), depth: number('depth'), width: number('width'), channels: number('channels'),
      learningRate: number('learningRate'), batch: number('batch'), seed: number('seed'),
    };
    if (chosen.data !== 'own') return chosen;
    return {...chosen, points: Float32Array.from(points.flatMap(([x, y]) => [x, y])), labels: points.map(([, , label]) => label)};
  }

  function setRunning(on) {
    running = on;
    button('run').textContent = on ? 'Pause' : 'Start';
    button('step').disabled = on;
  }

  const start = () => engine.start({stepsPerFrame: Number(form.elements.speed.value)});

  function refuse(message) {
    complain(element, message);
    setRunning(false);
  }

  /** A new network with the settings shown. It goes on training if the last one did. */
  async function reset() {
    if (!form.reportValidity()) return;
    const chosen = settings(), isOwn = chosen.data === 'own';
    out('rule').innerHTML = rules[chosen.update];
    own.hidden = !isOwn;
    for (const key of element.querySelectorAll('[data-test]')) key.hidden = isOwn;
    out('audited').textContent = isOwn ? 'training' : 'test';
    element.querySelector('[data-gates]').hidden = chosen.update === 'additive';
    Object.assign(canvas('regions'), {tabIndex: isOwn ? 0 : -1});
    canvas('regions').setAttribute('role', isOwn ? 'application' : 'img');
    curve = {step: [], train: [], test: []};
    every = 1;
    measured = 0;
    complain(element);
    const empty = isOwn && points.length === 0;
    for (const name of ['run', 'step']) button(name).disabled = empty;
    if (empty) {
      engine.pause();
      setRunning(false);
      button('step').disabled = true;
      frame = regions = null;
      data = {train: {points: [], labels: []}, test: {points: [], labels: []}};
      surfaces.forEach((surface) => surface.request());
      showCode();
      return;
    }
    const goOn = running;
    try {
      await engine.reset(chosen);
      data = await engine.call('points');
      setRunning(goOn);
      if (goOn) start();
    } catch (error) {
      refuse(error.message);
    }
  }

  function onFrame(next) {
    frame = next;
    if (next.regions) {  // the figures are new
      pixels.width = pixels.height = next.size;
      regions = next.regions;
      if (measured++ % every === 0) {
        curve.step.push(next.step);
        curve.train.push(next.train.loss);
        curve.test.push(next.test.loss);
      }
      if (curve.step.length > longestCurve) {
        for (const name of Object.keys(curve)) curve[name] = curve[name].filter((_, i) => i % 2 === 0);
        every *= 2;
      }
    }
    out('step').textContent = next.step;
    out('trainLoss').textContent = decimal(next.train.loss, 4);
    out('testLoss').textContent = decimal(next.test.loss, 4);
    const tested = Number.isFinite(next.test.accuracy) ? next.test : next.train;
    out('correctOf').textContent = tested === next.test ? 'Test correct' : 'Train correct';
    out('correct').textContent = `${decimal(100 * tested.accuracy, 1)} %`;
    out('parameters').textContent = next.parameters;
    surfaces.forEach((surface) => surface.request());
    if (!running) showCode();
  }

  function onStop(message) {
    refuse(message);
  }

  function paintRegions(context, width) {
    const c = colours(), at = (x) => ((x + 1) / 2) * width, down = (y) => ((1 - y) / 2) * width;
    if (regions) {
      const small = pixels.getContext('2d'), image = small.createImageData(pixels.width, pixels.height);
      const card = rgb(c.card), sides = [rgb(c['blue-soft']), rgb(c['orange-soft'])];
      regions.forEach((p, i) => {
        const side = sides[p > 127 ? 1 : 0], weight = Math.abs(p / 127.5 - 1);
        for (let j = 0; j < 3; ++j) image.data[4 * i + j] = card[j] + weight * (side[j] - card[j]);
        image.data[4 * i + 3] = 255;
      });
      small.putImageData(image, 0, 0);
      context.imageSmoothingEnabled = true;
      context.drawImage(pixels, 0, 0, width, width);
    }
    const classes = [c.blue, c.orange];
    context.lineWidth = 1.25;
    data.test.labels.forEach((label, n) => {
      context.strokeStyle = classes[label];
      context.globalAlpha = 0.55;
      context.beginPath();
      context.arc(at(data.test.points[2 * n]), down(data.test.points[2 * n + 1]), 2.25, 0, 2 * Math.PI);
      context.stroke();
    });
    context.globalAlpha = 1;
    data.train.labels.forEach((label, n) => {
      const x = at(data.train.points[2 * n]), y = down(data.train.points[2 * n + 1]);
      context.fillStyle = c.card;
      dot(context, x, y, 3.75);
      context.fillStyle = classes[label];
      dot(context, x, y, 2.75);
    });
    if (document.activeElement === canvas('regions')) {
      context.strokeStyle = c.ink;
      line(context, at(cross.x) - 9, down(cross.y), at(cross.x) + 9, down(cross.y));
      line(context, at(cross.x), down(cross.y) - 9, at(cross.x), down(cross.y) + 9);
    }
  }

  function paintLoss(context, width, height) {
    const c = colours(), losses = [...curve.train, ...curve.test].filter((loss) => loss > 0);
    const last = curve.step.at(-1) ?? 0;
    const low = Math.max(1e-6, 10 ** Math.floor(Math.log10(Math.min(0.1, ...losses))));
    const series = [{x: curve.step, y: curve.train, colour: c.blue}];
    if (curve.test.some(Number.isFinite)) series.push({x: curve.step, y: curve.test, colour: c.orange, dashed: true});
    chart(context, {x: 0, y: 0, width, height}, {
      x: [0, Math.max(100, last)], y: [low, Math.max(1, ...losses)], log: true, xLabel: 'step', yLabel: 'cross-entropy', series,
    });
    context.canvas.setAttribute('aria-label',
      `Loss over ${last} steps: train ${decimal(curve.train.at(-1) ?? NaN, 4)}, test ${decimal(curve.test.at(-1) ?? NaN, 4)}`);
  }

  const rowHeight = 40, headHeight = 24, footHeight = 24;
  function paintLayers(context, width, height) {
    const c = colours(), depth = Number(form.elements.depth.value);
    const wanted = headHeight + depth * rowHeight + footHeight;
    if (Math.abs(height - wanted) > 1) {
      context.canvas.style.height = `${wanted}px`;  // painted again at its new size
      return;
    }
    context.fillStyle = c.muted;
    context.textBaseline = 'middle';
    if (!frame || frame.before.length !== depth) {
      context.fillText(form.elements.update.value === 'additive' ? 'The additive rule has no gates to show.' : 'Nothing to show yet.', 0, headHeight);
      context.canvas.setAttribute('aria-label', 'No gates to show');
      return;
    }
    const left = 24, gap = 28, column = (width - left - gap - 10) / 2, right = left + column + gap;
    const largest = Math.max(1e-9, ...frame.before, ...frame.after) * 1.05;
    const px = (x) => right + (x / largest) * column;
    context.textAlign = 'left';
    context.fillText('gate β', left, 8);
    context.fillText('discrepancy', right, 8);
    for (let layer = 0; layer < depth; ++layer) {
      const top = headHeight + layer * rowHeight, bottom = top + rowHeight - 8, middle = top + (rowHeight - 8) / 2;
      context.fillStyle = c.muted;
      context.textAlign = 'right';
      context.fillText(String(layer + 1), left - 10, middle);
      context.lineWidth = 1;
      context.strokeStyle = c.grid;
      line(context, left + column / 2, top, left + column / 2, bottom);
      line(context, right, middle, right + column, middle);
      histogram(context, {x: left, y: top, width: column, height: bottom - top},
        frame.beta.slice(layer * frame.bins, (layer + 1) * frame.bins), c.blue);
      context.strokeStyle = c.line;
      line(context, left, bottom, left + column, bottom);
      context.strokeStyle = c.orange;
      context.lineWidth = 3;
      line(context, px(frame.before[layer]), middle, px(frame.after[layer]), middle);
      context.fillStyle = c.card;
      dot(context, px(frame.before[layer]), middle, 4.5);
      context.strokeStyle = c.muted;
      context.lineWidth = 2;
      context.beginPath();
      context.arc(px(frame.before[layer]), middle, 4.5, 0, 2 * Math.PI);
      context.stroke();
      context.fillStyle = c.orange;
      dot(context, px(frame.after[layer]), middle, 4.5);
    }
    context.fillStyle = c.muted;
    context.textAlign = 'center';
    const foot = headHeight + depth * rowHeight + 6;
    for (const beta of [0, 1, 2]) context.fillText(String(beta), left + (beta / 2) * column, foot);
    context.textAlign = 'left';
    context.fillText('0', right - 3, foot);
    context.textAlign = 'right';
    context.fillText(decimal(largest / 1.05), right + column, foot);
    context.canvas.setAttribute('aria-label', 'Mean discrepancy before and after the edit, by layer: ' +
      Array.from(frame.before, (before, l) => `${decimal(before)} to ${decimal(frame.after[l])}`).join(', '));
  }

  function showCode() {
    const details = element.querySelector('details');
    if (details.open) details.querySelector('code').textContent = frame ? program(settings(), frame.step || 500) : '';
  }

  function addPoint(x, y) {
    const round = (z) => Math.round(100 * z) / 100;
    points.push([round(x), round(y), Number(element.querySelector('input[name="class"]:checked').value)]);
    reset();
  }

  const surfaces = [
    new Surface(canvas('regions'), paintRegions),
    new Surface(canvas('loss'), paintLoss),
    new Surface(canvas('layers'), paintLayers),
  ];

  form.addEventListener('submit', (event) => event.preventDefault());
  form.addEventListener('change', ({target}) => {
    if (target.name !== 'speed') reset();
    else if (running) start();
  });
  button('reset').addEventListener('click', reset);
  button('run').addEventListener('click', () => {
    if (running) engine.pause();
    else start();
    setRunning(!running);
  });
  button('step').addEventListener('click', () => engine.step());
  button('undo').addEventListener('click', () => {
    points.pop();
    reset();
  });
  button('clear').addEventListener('click', () => {
    points = [];
    reset();
  });
  button('copy').addEventListener('click', async () => {
    showCode();
    await navigator.clipboard.writeText(element.querySelector('code').textContent);
    out('copied').textContent = 'Copied.';
  });
  element.querySelector('details').addEventListener('toggle', showCode);
  const picture = canvas('regions');
  picture.addEventListener('click', (event) => {
    if (own.hidden) return;
    const {left, top, width} = picture.getBoundingClientRect();
    addPoint(2 * (event.clientX - left) / width - 1, 1 - 2 * (event.clientY - top) / width);
  });
  picture.addEventListener('keydown', (event) => {
    if (own.hidden) return;
    const move = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[event.key];
    if (move) {
      const step = event.shiftKey ? 0.2 : 0.04;
      cross.x = Math.max(-1, Math.min(1, cross.x + step * move[0]));
      cross.y = Math.max(-1, Math.min(1, cross.y + step * move[1]));
      surfaces[0].request();
    } else if (event.key === ' ' || event.key === 'Enter') {
      addPoint(cross.x, cross.y);
    } else {
      return;
    }
    event.preventDefault();
  });
  for (const name of ['focus', 'blur']) picture.addEventListener(name, () => surfaces[0].request());
  await reset();
}
