// SPDX-License-Identifier: MIT
/** @file Controls that several parts have. */

/**
 * A choice with its label, as HTML.
 * @param {string} name
 * @param {string} label
 * @param {(string | number | [string | number, string])[]} options  values, or values and what the reader sees
 * @param {string | number} chosen
 */
export function select(name, label, options, chosen) {
  const items = options.map((option) => (Array.isArray(option) ? option : [option, option]));
  return `<label>${label} <select name="${name}">${items.map(([value, text]) =>
    `<option value="${value}"${value === chosen ? ' selected' : ''}>${text}</option>`).join('')}</select></label>`;
}

/** A seed with its label, as HTML. */
export const seed = (value) =>
  `<label>Seed <input type="number" name="seed" min="0" max="999999" step="1" value="${value}" required></label>`;

/** Shows a message in the part's line for errors, or hides the line. */
export function complain(element, message) {
  const line = element.querySelector('.error');
  line.textContent = message ?? '';
  line.hidden = !message;
}
