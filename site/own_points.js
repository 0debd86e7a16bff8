// SPDX-License-Identifier: MIT
/** @file Points that the reader adds to the picture of the part "depth", by pointer or keyboard. */

/** The points that the reader finds: x, y, class. */
const firstPoints = [
  [-0.6, 0.5, 0], [-0.35, 0.65, 0], [-0.5, 0.25, 0], [0.5, -0.45, 0], [0.3, -0.6, 0], [0.65, -0.25, 0],
  [0.5, 0.55, 1], [0.3, 0.35, 1], [0.65, 0.3, 1], [-0.45, -0.5, 1], [-0.65, -0.35, 1], [-0.3, -0.65, 1],
];

/** The controls under the picture, as HTML. */
export const ownPointsHtml = `
  <fieldset class="own" hidden>
    <legend class="visually-hidden">Your own points</legend>
    <div class="controls">
      <label class="check"><input type="radio" name="class" value="0" checked> blue</label>
      <label class="check"><input type="radio" name="class" value="1"> orange</label>
      <button type="button" name="undo">Remove the last</button>
      <button type="button" name="clear">Remove all</button>
    </div>
    <p class="note">Click the picture to add a point of the chosen class. On the keyboard: select the picture, move the cross with the arrow keys, add a point with Space.</p>
  </fieldset>`;

/** The points, the controls and the picture that they are added to. */
export class OwnPoints {
  #points = firstPoints.slice();
  #cross = {x: 0, y: 0};
  #controls;
  #picture;
  #changed;

  /**
   * @param {HTMLElement} element  that holds ownPointsHtml
   * @param {HTMLCanvasElement} picture  the square from -1 to 1
   * @param {{changed: () => void, moved: () => void}} on  after a point is added or removed; after the cross has moved
   */
  constructor(element, picture, {changed, moved}) {
    this.#controls = element.querySelector('.own');
    this.#picture = picture;
    this.#changed = changed;
    const button = (name) => element.querySelector(`button[name="${name}"]`);
    button('undo').addEventListener('click', () => {
      this.#points.pop();
      changed();
    });
    button('clear').addEventListener('click', () => {
      this.#points = [];
      changed();
    });
    picture.addEventListener('click', (event) => {
      const {left, top, width} = picture.getBoundingClientRect();
      this.#add(2 * (event.clientX - left) / width - 1, 1 - 2 * (event.clientY - top) / width);
    });
    picture.addEventListener('keydown', (event) => {
      if (!this.active) return;
      const cross = this.#cross, step = event.shiftKey ? 0.2 : 0.04;
      const move = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[event.key];
      if (move) {
        cross.x = Math.max(-1, Math.min(1, cross.x + step * move[0]));
        cross.y = Math.max(-1, Math.min(1, cross.y + step * move[1]));
        moved();
      } else if (event.key === ' ' || event.key === 'Enter') {
        this.#add(cross.x, cross.y);
      } else {
        return;
      }
      event.preventDefault();
    });
    for (const name of ['focus', 'blur']) picture.addEventListener(name, moved);
  }

  /** Whether the reader may add points. */
  get active() {
    return !this.#controls.hidden;
  }
  set active(on) {
    this.#controls.hidden = !on;
    this.#picture.tabIndex = on ? 0 : -1;
    this.#picture.setAttribute('role', on ? 'application' : 'img');
  }
  get empty() {
    return this.#points.length === 0;
  }
  /** As the engine's settings have them. */
  get settings() {
    return {points: Float32Array.from(this.#points.flatMap(([x, y]) => [x, y])), labels: this.#points.map(([, , label]) => label)};
  }
  /** Where the keyboard would add a point; null unless the picture has the focus. */
  get cross() {
    return this.active && document.activeElement === this.#picture ? this.#cross : null;
  }

  #add(x, y) {
    if (!this.active) return;
    const rounded = [x, y].map((z) => Math.round(100 * z) / 100);  // a short number in the program shown
    this.#points.push([...rounded, Number(this.#controls.querySelector('input[name="class"]:checked').value)]);
    this.#changed();
  }
}
