// SPDX-License-Identifier: MIT
/** @file The part "operator": points in the plane and a ball in space under one edit, Y = X + beta k (v - X^T k)^T. */
import {Handle, Surface, arrow, colours, decimal, dot, line} from './draw.js';

const names = [[0, 'identity'], [1, 'projection'], [2, 'reflection']];
const range = 1.45;         // half the width of a picture
const largestValue = 0.8;   // of |v|, so that its handle does not meet k's
const degree = Math.PI / 180;

/** The letter F: a figure that differs from its mirror image. Corners in the plane. */
const letter = [
  [-0.6, -0.5], [-0.4, -0.5], [-0.4, -0.1], [-0.1, -0.1], [-0.1, 0.1], [-0.4, 0.1], [-0.4, 0.3], [0, 0.3], [0, 0.5], [-0.6, 0.5],
];

/** Points of the unit disc on a hexagonal lattice. */
function discPoints() {
  const points = [], step = 0.155;
  for (let row = -7; row <= 7; ++row) {
    for (let column = -8; column <= 8; ++column) {
      const x = (column + (row & 1) / 2) * step, y = row * step * Math.sqrt(0.75);
      if (Math.hypot(x, y) <= 1) points.push(x, y);
    }
  }
  return points;
}

/** Points of the unit sphere, evenly spread along a spiral. */
function spherePoints(count) {
  const points = [], turn = Math.PI * (3 - Math.sqrt(5));
  for (let i = 0; i < count; ++i) {
    const z = 1 - (2 * i + 1) / count, radius = Math.sqrt(1 - z * z);
    points.push(radius * Math.cos(i * turn), z, radius * Math.sin(i * turn));
  }
  return points;
}

const disc = discPoints();
const plane = Float32Array.from([...disc, ...letter.flat()]);
const sphere = Float32Array.from(spherePoints(420));

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
  const engine = await loadEngine({});
  element.innerHTML = html;
  const input = (name) => element.querySelector(`input[name="${name}"]`);
  const out = (name) => element.querySelector(`[data-out="${name}"]`);
  const beta = input('beta'), value = input('value'), view = input('view');
  const direction = {angle: 35 * degree, azimuth: 90 * degree, elevation: 35 * degree};
  let edited;  // what the library computed

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
      const gate = {beta: Number(beta.value)}, write = {...gate, value: Number(value.value)};
      const [flat, ball, product] = await Promise.all([
        engine.call('edit', {...write, direction: inPlane(), points: plane}),
        engine.call('edit', {...write, direction: inSpace(), points: sphere}),
        engine.call('edit', {...gate, value: null, direction: inPlane(), points: Float32Array.of(1, 0, 0, 1)}),
      ]);
      edited = {flat, ball, matrix: product.points, value: write.value};
      show();
    }
    computing = false;
  }

  function show() {
    const {flat, ball, matrix} = edited;
    element.querySelector('[data-for="beta"]').textContent = decimal(Number(beta.value));
    element.querySelector('[data-for="value"]').textContent = decimal(edited.value);
    out('regime').textContent = flat.regime;
    out('across').textContent = `${decimal(flat.eigenvalues[0])} (once in the plane, twice in space)`;
    out('along').textContent = `1 − β = ${decimal(flat.eigenvalues[1])}`;
    out('determinant').textContent = decimal(flat.determinant);
    out('direction').textContent = `(${decimal(flat.direction[0])}, ${decimal(flat.direction[1])})`;
    out('matrix').innerHTML = [0, 2, 1, 3].map((i) => `<span>${decimal(matrix[i])}</span>`).join('');
    for (const button of element.querySelectorAll('[data-beta]'))
      button.setAttribute('aria-pressed', button.dataset.beta === String(Number(beta.value)));
    surfaces.forEach((surface) => surface.request());
    const text = `beta ${decimal(Number(beta.value))}, ${flat.regime}, v ${decimal(edited.value)}`;
    surfaces[0].canvas.setAttribute('aria-label', `Points of a disc and a letter F before and after the edit: ${text}`);
    surfaces[1].canvas.setAttribute('aria-label', `Points of a sphere after the edit: ${text}; determinant ${decimal(ball.determinant)}`);
  }

  const side = (k, points, i, v) => k.reduce((sum, kj, j) => sum + kj * points[i + j], 0) > v;

  function paintPlane(context, width, height) {
    if (!edited) return;
    const c = colours(), unit = width / (2 * range), {points, direction: k} = edited.flat, v = edited.value;
    const px = (x) => width / 2 + x * unit, py = (y) => height / 2 - y * unit;
    context.lineWidth = 1;
    context.strokeStyle = c.grid;
    line(context, 0, py(0), width, py(0));
    line(context, px(0), 0, px(0), height);
    context.beginPath();
    context.arc(px(0), py(0), unit, 0, 2 * Math.PI);
    context.stroke();

    context.fillStyle = c.line;
    context.strokeStyle = c.grid;
    for (let i = 0; i < disc.length; i += 2) {
      line(context, px(plane[i]), py(plane[i + 1]), px(points[i]), py(points[i + 1]));
      dot(context, px(plane[i]), py(plane[i + 1]), 1.5);
    }
    const outline = (from) => {
      context.beginPath();
      for (let i = disc.length; i < plane.length; i += 2) context.lineTo(px(from[i]), py(from[i + 1]));
      context.closePath();
      context.stroke();
    };
    context.strokeStyle = c.muted;
    context.setLineDash([4, 3]);
    outline(plane);
    line(context, px(v * k[0] - 2 * k[1]), py(v * k[1] + 2 * k[0]), px(v * k[0] + 2 * k[1]), py(v * k[1] - 2 * k[0]));
    context.setLineDash([]);
    for (let i = 0; i < disc.length; i += 2) {
      context.fillStyle = side(k, plane, i, v) ? c.orange : c.blue;
      dot(context, px(points[i]), py(points[i + 1]), 2.75);
    }
    context.strokeStyle = c.ink;
    context.lineWidth = 2.5;
    outline(points);
    context.fillStyle = c.ink;
    context.globalAlpha = 0.12;
    context.fill();
    context.globalAlpha = 1;
    arrow(context, px(0), py(0), px(k[0]), py(k[1]), c.accent, 2.5);
    planeK.place(px(k[0]), py(k[1]), direction.angle / degree, `${Math.round(direction.angle / degree)} degrees`);
    planeV.place(px(v * k[0]), py(v * k[1]), v, decimal(v));
  }

  /** World to camera: x to the right, y up, z to the reader. */
  const camera = ([x, y, z]) => {
    const turn = Number(view.value) * degree, tilt = 18 * degree;
    const right = x * Math.cos(turn) + z * Math.sin(turn), away = z * Math.cos(turn) - x * Math.sin(turn);
    return [right, y * Math.cos(tilt) - away * Math.sin(tilt), y * Math.sin(tilt) + away * Math.cos(tilt)];
  };
  const world = ([x, y, z]) => {
    const turn = Number(view.value) * degree, tilt = 18 * degree;
    const up = y * Math.cos(tilt) + z * Math.sin(tilt), away = z * Math.cos(tilt) - y * Math.sin(tilt);
    return [x * Math.cos(turn) - away * Math.sin(turn), up, away * Math.cos(turn) + x * Math.sin(turn)];
  };

  function paintSpace(context, width, height) {
    if (!edited) return;
    const c = colours(), unit = width / (2 * range), {points, direction: k} = edited.ball, v = edited.value;
    const px = (x) => width / 2 + x * unit, py = (y) => height / 2 - y * unit;
    context.lineWidth = 1;
    context.strokeStyle = c.line;
    context.beginPath();
    context.arc(px(0), py(0), unit, 0, 2 * Math.PI);
    context.stroke();

    // The plane k . x = v as a disc, spanned by two directions across k.
    const least = Math.abs(k[0]) < Math.abs(k[1]) ? [1, 0, 0] : [0, 1, 0];
    const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
    const first = cross(k, least), length = Math.hypot(...first), second = cross(k, first);
    const mirror = Array.from({length: 49}, (_, i) => {
      const a = Math.cos((i * Math.PI) / 24) / length, b = Math.sin((i * Math.PI) / 24) / length;
      return camera(k.map((kj, j) => v * kj + 1.1 * (a * first[j] + b * second[j])));
    });
    const paintMirror = () => {
      context.fillStyle = c.muted;
      context.strokeStyle = c.muted;
      context.beginPath();
      for (const [x, y] of mirror) context.lineTo(px(x), py(y));
      context.globalAlpha = 0.12;
      context.fill();
      context.globalAlpha = 0.6;
      context.setLineDash([4, 3]);
      context.stroke();
      context.setLineDash([]);
      context.globalAlpha = 1;
    };

    const dots = [];
    for (let i = 0; i < sphere.length; i += 3)
      dots.push({at: camera(points.slice(i, i + 3)), colour: side(k, sphere, i, v) ? c.orange : c.blue});
    dots.sort((a, b) => a.at[2] - b.at[2]);
    const paintDots = (some) => {
      for (const {at: [x, y, z], colour} of some) {
        const near = Math.min(1, Math.max(0, (z + 1.2) / 2.4));
        context.globalAlpha = 0.25 + 0.75 * near;
        context.fillStyle = colour;
        dot(context, px(x), py(y), 1.75 + 1.75 * near);
      }
      context.globalAlpha = 1;
    };
    const half = dots.findIndex(({at}) => at[2] > 0);
    paintDots(dots.slice(0, half));
    paintMirror();
    paintDots(dots.slice(half));
    const [kx, ky] = camera(k);
    arrow(context, px(0), py(0), px(kx), py(ky), c.accent, 2.5);
    spaceK.place(px(kx), py(ky), direction.azimuth / degree,
      `${Math.round(direction.azimuth / degree)} degrees around, ${Math.round(direction.elevation / degree)} degrees up`);
  }

  function paintSpectrum(context, width, height) {
    if (!edited) return;
    const c = colours(), y = height - 26, px = (x) => 18 + ((x + 1) / 2) * (width - 36);
    const [across, along] = edited.flat.eigenvalues;
    context.strokeStyle = c.line;
    context.fillStyle = c.muted;
    context.textAlign = 'center';
    context.textBaseline = 'top';
    line(context, px(-1), y, px(1), y);
    for (const t of [-1, 0, 1]) {
      line(context, px(t), y - 4, px(t), y + 4);
      context.fillText(decimal(t, 0), px(t), y + 10);
    }
    context.textBaseline = 'bottom';
    for (const [at, colour, text, above] of [[across, c.muted, 'across', 22], [along, c.accent, 'along', 8]]) {
      context.fillStyle = colour;
      dot(context, px(at), y, 5);
      context.textAlign = at > 0.8 ? 'right' : at < -0.8 ? 'left' : 'center';
      context.fillText(`${text} k`, px(at), y - above);
    }
  }

  const stage = (name) => element.querySelector(`[data-stage="${name}"]`);
  const surfaces = [
    new Surface(stage('plane').firstChild, paintPlane),
    new Surface(stage('space').firstChild, paintSpace),
    new Surface(element.querySelector('.spectrum'), paintSpectrum),
  ];
  /** The middle of a stage as the origin, and the length of a unit, in pixels. */
  const frame = (name) => {
    const width = stage(name).clientWidth;
    return (x, y) => [(x - width / 2) * (2 * range) / width, (width / 2 - y) * (2 * range) / width];
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
    onDrag: (x, y) => {
      const [px, py] = frame('plane')(x, y), [kx, ky] = inPlane();
      setValue(px * kx + py * ky);
    },
    onKey: (right, up) => setValue(Number(value.value) + 0.02 * (right + up)),
  });
  const planeK = new Handle(stage('plane'), {
    label: 'Direction k in the plane', text: 'k', range: [-180, 180],
    onDrag: (x, y) => {
      const [px, py] = frame('plane')(x, y);
      turnPlane(Math.atan2(py, px));
    },
    onKey: (right, up) => turnPlane(direction.angle + 2 * degree * (up - right)),
  });
  const spaceK = new Handle(stage('space'), {
    label: 'Direction k in space', text: 'k', range: [-180, 180],
    onDrag: (x, y) => {
      const [px, py] = frame('space')(x, y), radius = Math.max(1, Math.hypot(px, py));
      const [wx, wy, wz] = world([px / radius, py / radius, Math.sqrt(Math.max(0, 1 - (px * px + py * py) / radius ** 2))]);
      turnSpace(Math.atan2(wx, wz), Math.asin(Math.max(-1, Math.min(1, wy))));
    },
    onKey: (right, up) => turnSpace(direction.azimuth + 2 * degree * right, direction.elevation + 2 * degree * up),
  });

  beta.addEventListener('input', update);
  value.addEventListener('input', update);
  view.addEventListener('input', () => surfaces[1].request());
  element.addEventListener('click', ({target}) => {
    if (target.dataset.beta) beta.value = target.dataset.beta;
    else if (target.dataset.value) value.value = target.dataset.value;
    else return;
    update();
  });
  await update();
}
