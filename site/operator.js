// SPDX-License-Identifier: MIT
/** @file The part "operator": points in the plane and a ball in space under one edit, Y = X + beta k (v - X^T k)^T. */
import {Handle, Surface, decimal} from './draw.js';
import {paintPlane, paintSpace, paintSpectrum, pixels, plane, range, sphere, toCamera, toWorld} from './operator_pictures.js';

const names = [[0, 'identity'], [1, 'projection'], [2, 'reflection']];
const largestValue = 0.8;  // of |v|, so that its handle does not meet k's
const degree = Math.PI / 180;

const html = `
  <div class="panel">
    <div class="controls">
      <label class="wide"><span>Gate <var>β</var> = <output data-for="beta"></output></span>
        <input type="range" name="beta" min="0" max="2" step="0.01" value="0.6" aria-label="Gate beta">
        <span class="marks">${names.map(([beta, name]) => `<button type="button" class="quiet" data-beta="${beta}">${beta} ${name}</button>`).join('')}</span>
      </label>
      <label class="wide"><span>Write <var>v</var> = <output data-for="value"></output></span>
        <input type="range" name="value" min="${-largestValue}" max="${largestValue}" step="0.01" value="0" aria-label="Write v">
        <span class="marks"><button type="button" class="quiet" data-value="0">0 writes nothing</button></span>
      </label>
    </div>
  </div>
  <div class="panels">
    <div class="panel">
      <h3>Points in the plane</h3>
      <div class="stage" data-stage="plane"><canvas class="square" role="img"></canvas></div>
      <p class="keys">
        <span class="key"><i class="dot" style="--colour: var(--line)"></i>before the edit</span>
        <span class="key"><i class="dot" style="--colour: var(--orange)"></i>after, from beyond <var>v</var></span>
        <span class="key"><i class="dot" style="--colour: var(--blue)"></i>after, from the other side</span>
      </p>
    </div>
    <div class="panel">
      <h3>A ball in space</h3>
      <div class="stage" data-stage="space"><canvas class="square" role="img"></canvas></div>
      <div class="controls"><label class="wide">Turn the view
        <input type="range" name="view" min="-180" max="180" step="1" value="-35"></label></div>
    </div>
    <div class="panel stack">
      <h3>The operator <span class="maths">A = I − β k k<sup>T</sup></span></h3>
      <dl class="readout">
        <dt>Nearest regime</dt><dd data-out="regime"></dd>
        <dt>Eigenvalue along <var>k</var></dt><dd data-out="along"></dd>
        <dt>Eigenvalue across <var>k</var></dt><dd data-out="across"></dd>
        <dt>Determinant</dt><dd data-out="determinant"></dd>
        <dt><var>k</var> in the plane</dt><dd data-out="direction"></dd>
        <dt><var>A</var> in the plane</dt><dd><span class="matrix" data-out="matrix"></span></dd>
      </dl>
      <canvas class="spectrum" role="img" aria-label="Eigenvalues on a line from minus 1 to 1"></canvas>
      <p class="note">An edit changes only what lies along <var>k</var>: a point <var>x</var> becomes a <var>y</var> with
        <span class="maths">k·y = (1 − β) k·x + β v</span>. Drag <var>k</var> and <var>v</var> in the pictures, or select them with Tab and use the arrow keys.</p>
    </div>
  </div>`;

/**
 * Builds the part.
 * @param {HTMLElement} element
 * @param {(handlers: object) => Promise<import('./engine.js').Engine>} loadEngine
 */
export async function mount(element, loadEngine) {
  element.innerHTML = html;
  const engine = await loadEngine({});
  const input = (name) => element.querySelector(`input[name="${name}"]`);
  const out = (name) => element.querySelector(`[data-out="${name}"]`);
  const stage = (name) => element.querySelector(`[data-stage="${name}"]`);
  const beta = input('beta'), value = input('value'), view = input('view');
  const direction = {angle: 35 * degree, azimuth: 90 * degree, elevation: 35 * degree};
  const turn = () => Number(view.value) * degree;
  let edited = null;  // what the library computed

  const inPlane = () => [Math.cos(direction.angle), Math.sin(direction.angle)];
  const inSpace = () => {
    const {azimuth, elevation} = direction;
    return [Math.cos(elevation) * Math.sin(azimuth), Math.sin(elevation), Math.cos(elevation) * Math.cos(azimuth)];
  };

  // One call at a time; changes in the meantime are taken up by the next one.
  let computing = false, changed = false;
  async function update() {
    changed = true;
    if (computing) return;
    computing = true;
    while (changed) {
      changed = false;
      const gate = {beta: Number(beta.value)}, v = Number(value.value);
      const [flat, ball, product] = await Promise.all([
        engine.call('edit', {...gate, value: v, direction: inPlane(), points: plane}),
        engine.call('edit', {...gate, value: v, direction: inSpace(), points: sphere}),
        engine.call('edit', {...gate, value: null, direction: inPlane(), points: Float32Array.of(1, 0, 0, 1)}),
      ]);
      edited = {...gate, v, flat, ball, matrix: product.points};
      show();
    }
    computing = false;
  }

  function show() {
    const {flat, ball, matrix, v} = edited, gate = decimal(edited.beta);
    element.querySelector('[data-for="beta"]').textContent = gate;
    element.querySelector('[data-for="value"]').textContent = decimal(v);
    out('regime').textContent = flat.regime;
    out('across').textContent = `${decimal(flat.eigenvalues[0])} (once in the plane, twice in space)`;
    out('along').textContent = `1 − β = ${decimal(flat.eigenvalues[1])}`;
    out('determinant').textContent = decimal(flat.determinant);
    out('direction').textContent = `(${decimal(flat.direction[0])}, ${decimal(flat.direction[1])})`;
    out('matrix').innerHTML = [0, 2, 1, 3].map((i) => `<span>${decimal(matrix[i])}</span>`).join('');
    for (const button of element.querySelectorAll('[data-beta]'))
      button.setAttribute('aria-pressed', Number(button.dataset.beta) === edited.beta);
    const text = `beta ${gate}, ${flat.regime}, v ${decimal(v)}`;
    planeSurface.canvas.setAttribute('aria-label', `Points of a disc and a letter F before and after the edit: ${text}`);
    spaceSurface.canvas.setAttribute('aria-label', `Points of a sphere after the edit: ${text}; determinant ${decimal(ball.determinant)}`);
    [planeSurface, spaceSurface, spectrumSurface].forEach((surface) => surface.request());
  }

  const planeSurface = new Surface(stage('plane').firstChild, (context, width, height) => {
    if (!edited) return;
    const {flat, v} = edited, k = flat.direction, {px, py} = pixels(width, height), angle = direction.angle / degree;
    paintPlane(context, width, height, flat, v);
    planeK.place(px(k[0]), py(k[1]), angle, `${Math.round(angle)} degrees`);
    planeV.place(px(v * k[0]), py(v * k[1]), v, decimal(v));
  });
  const spaceSurface = new Surface(stage('space').firstChild, (context, width, height) => {
    if (!edited) return;
    const {ball, v} = edited, {px, py} = pixels(width, height), [x, y] = toCamera(ball.direction, turn());
    const azimuth = direction.azimuth / degree, elevation = direction.elevation / degree;
    paintSpace(context, width, height, ball, v, turn());
    spaceK.place(px(x), py(y), azimuth, `${Math.round(azimuth)} degrees around, ${Math.round(elevation)} degrees up`);
  });
  const spectrumSurface = new Surface(element.querySelector('.spectrum'), (context, width, height) => {
    if (edited) paintSpectrum(context, width, height, edited.flat.eigenvalues);
  });

  /** Pixels of a stage to coordinates. */
  const coordinates = (name, x, y) => {
    const width = stage(name).clientWidth;
    return [(x - width / 2) * (2 * range) / width, (width / 2 - y) * (2 * range) / width];
  };
  const setValue = (v) => {
    value.value = Math.max(-largestValue, Math.min(largestValue, v));
    update();
  };
  const turnPlane = (angle) => {
    direction.angle = Math.atan2(Math.sin(angle), Math.cos(angle));
    update();
  };
  const turnSpace = (azimuth, elevation) => {
    direction.azimuth = Math.atan2(Math.sin(azimuth), Math.cos(azimuth));
    direction.elevation = Math.max(-Math.PI / 2, Math.min(Math.PI / 2, elevation));
    update();
  };
  const planeV = new Handle(stage('plane'), {
    label: 'Write v, along k', text: 'v', range: [-largestValue, largestValue],
    onDrag: (...at) => {
      const [x, y] = coordinates('plane', ...at), k = inPlane();
      setValue(x * k[0] + y * k[1]);
    },
    onKey: (right, up) => setValue(Number(value.value) + 0.02 * (right + up)),
  });
  const planeK = new Handle(stage('plane'), {
    label: 'Direction k in the plane', text: 'k', range: [-180, 180],
    onDrag: (...at) => {
      const [x, y] = coordinates('plane', ...at);
      turnPlane(Math.atan2(y, x));
    },
    onKey: (right, up) => turnPlane(direction.angle + 2 * degree * (up - right)),
  });
  const spaceK = new Handle(stage('space'), {
    label: 'Direction k in space', text: 'k', range: [-180, 180],
    onDrag: (...at) => {  // to the point of the sphere under the pointer, or nearest to it
      const [px, py] = coordinates('space', ...at), far = Math.max(1, Math.hypot(px, py));
      const near = Math.sqrt(Math.max(0, 1 - (px * px + py * py) / far ** 2));
      const [x, y, z] = toWorld([px / far, py / far, near], turn());
      turnSpace(Math.atan2(x, z), Math.asin(Math.max(-1, Math.min(1, y))));
    },
    onKey: (right, up) => turnSpace(direction.azimuth + 2 * degree * right, direction.elevation + 2 * degree * up),
  });

  beta.addEventListener('input', update);
  value.addEventListener('input', update);
  view.addEventListener('input', () => spaceSurface.request());
  element.addEventListener('click', ({target}) => {
    if (target.dataset.beta) beta.value = target.dataset.beta;
    else if (target.dataset.value) value.value = target.dataset.value;
    else return;
    update();
  });
  await update();
}
