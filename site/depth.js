// SPDX-License-Identifier: MIT
/** @file The part "depth": a DeltaResNet learns two classes of points, and what its gates do is shown layer by layer. */
import {program} from './code.js';
import {complain, seed, select} from './controls.js';
import {LossCurve, paintLayers, paintLoss, paintRegions} from './depth_pictures.js';
import {Surface, decimal} from './draw.js';
import {OwnPoints, ownPointsHtml} from './own_points.js';

const defaults = {data: 'spirals', update: 'delta', depth: 6, width: 16, channels: 2, learningRate: 0.003, batch: 32, seed: 1};
const rules = {
  delta: 'Y = X + β k (v − X<sup>T</sup>k)<sup>T</sup>: a layer reads, compares and writes the difference.',
  write_only: 'Y = X + β k v<sup>T</sup>: a layer writes and does not read.',
  additive: 'Y = X + k̃ 1<sup>T</sup>: a layer adds its output, as in a residual network. It has no gate and no target.',
};
const noData = {train: {points: [], labels: []}, test: {points: [], labels: []}};
const noLayers = {before: [], after: []};

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
      ${ownPointsHtml}
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
  element.innerHTML = html;
  const engine = await loadEngine({onFrame, onStop: refuse});
  const form = element.querySelector('form');
  const out = (name) => element.querySelector(`[data-out="${name}"]`);
  const canvas = (name) => element.querySelector(`[data-canvas="${name}"]`);
  const {run, step, reset: again, speed} = form.elements;

  let data = noData, curve = new LossCurve(), frame = null, regions = null, running = false;

  const surfaces = [
    new Surface(canvas('regions'), (context, width) =>
      paintRegions(context, width, {regions, size: frame?.size, data, cross: own.cross})),
    new Surface(canvas('loss'), (context, width, height) => paintLoss(context, width, height, curve)),
    new Surface(canvas('layers'), (context, width) => paintLayers(context, width, frame ?? noLayers)),
  ];
  const paint = () => surfaces.forEach((surface) => surface.request());
  const own = new OwnPoints(element, canvas('regions'), {changed: reset, moved: paint});

  function settings() {
    const value = (name) => form.elements[name].value, number = (name) => Number(value(name));
    return {
      data: value('data'), update: value('update'), depth: number('depth'), width: number('width'), channels: number('channels'),
      learningRate: number('learningRate'), batch: number('batch'), seed: number('seed'),
      ...(own.active ? own.settings : {}),
    };
  }

  /** Whether there is something to learn. */
  const learnable = () => !own.active || !own.empty;

  function setRunning(on) {
    running = on;
    run.textContent = on ? 'Pause' : 'Start';
    run.disabled = !learnable();
    step.disabled = on || !learnable();
  }

  const start = () => engine.start({stepsPerFrame: Number(speed.value)});

  function refuse(message) {
    complain(element, message);
    setRunning(false);
  }

  /** A new network with the settings shown. It goes on training if the last one did. */
  async function reset() {
    if (!form.reportValidity()) return;
    own.active = form.elements.data.value === 'own';
    const chosen = settings(), goOn = running;
    out('rule').innerHTML = rules[chosen.update];
    for (const key of element.querySelectorAll('[data-test]')) key.hidden = own.active;
    out('audited').textContent = own.active ? 'training' : 'test';
    element.querySelector('[data-gates]').hidden = chosen.update === 'additive';
    curve = new LossCurve();
    complain(element);
    try {
      if (learnable()) {
        await engine.reset(chosen);
        data = await engine.call('points');
        setRunning(goOn);
        if (goOn) start();
      } else {
        await engine.pause();
        data = noData;
        frame = regions = null;
        setRunning(false);
        showCode();
      }
      paint();
    } catch (error) {
      refuse(error.message);
    }
  }

  function onFrame(next) {
    if (!learnable()) return;  // a frame of the network before the last point was removed
    frame = next;
    if (next.regions) {  // the figures are new
      regions = next.regions;
      curve.add(next.step, next.train.loss, next.test.loss);
    }
    const tested = Number.isFinite(next.test.accuracy) ? next.test : next.train;
    out('step').textContent = next.step;
    out('trainLoss').textContent = decimal(next.train.loss, 4);
    out('testLoss').textContent = decimal(next.test.loss, 4);
    out('correctOf').textContent = tested === next.test ? 'Test correct' : 'Train correct';
    out('correct').textContent = `${decimal(100 * tested.accuracy, 1)} %`;
    out('parameters').textContent = next.parameters;
    paint();
    if (!running) showCode();
  }

  function showCode() {
    const details = element.querySelector('details');
    if (details.open) details.querySelector('code').textContent = frame ? program(settings(), frame.step || 500) : '';
  }

  form.addEventListener('submit', (event) => event.preventDefault());
  form.addEventListener('change', ({target}) => {
    if (target !== speed) reset();
    else if (running) start();
  });
  again.addEventListener('click', reset);
  run.addEventListener('click', () => {
    if (running) engine.pause();
    else start();
    setRunning(!running);
  });
  step.addEventListener('click', () => engine.step());
  element.querySelector('details').addEventListener('toggle', showCode);
  element.querySelector('button[name="copy"]').addEventListener('click', async () => {
    showCode();
    await navigator.clipboard.writeText(element.querySelector('code').textContent);
    out('copied').textContent = 'Copied.';
  });
  await reset();
}
