// Forms made from JSON Schemas. They check no more than they must: what the server says of bad data is what one wants to
// see. What is left empty is not sent, and a number that is none goes as the text it is; only what cannot be put into
// JSON is stopped here.

import { el } from "./dom.js";

const LONG = 200;
let ids = 0;

/** Make the fields of an object `schema`: {element, read}, where read() gives {data, problems: [[path, text]]}. */
export function build(schema) {
  return group(schema, schema.$defs ?? {}, "", 0);
}

function group(schema, defs, prefix, depth) {
  const required = new Set(schema.required ?? []);
  const names = Object.keys(schema.properties ?? {}).filter((name) => !schema.properties[name].readOnly);
  names.sort((one, other) => required.has(other) - required.has(one));
  const fields = names.map((name) => {
    const path = prefix ? `${prefix}.${name}` : name;
    return { name, ...field(name, resolve(schema.properties[name], defs), required.has(name), defs, path, depth) };
  });
  const element = el("div", { className: "fields" }, ...fields.map((each) => each.element));
  if (!fields.length && !depth) element.append(el("p", { className: "hint", textContent: "It takes no data." }));
  return { element, read: () => collect(fields) };
}

function collect(fields) {
  const data = {};
  const problems = [];
  for (const { name, read } of fields) {
    const { value, problems: found = [] } = read();
    problems.push(...found);
    if (value !== undefined) data[name] = value;
  }
  return { data, problems };
}

/** Follow references, and take what may also be null as nullable. */
function resolve(schema, defs) {
  let found = schema === true || !schema ? {} : schema;
  if (found.$ref) found = { ...defs[found.$ref.split("/").pop()], ...without(found, "$ref") };
  if (found.allOf?.length === 1) found = { ...resolve(found.allOf[0], defs), ...without(found, "allOf") };
  const choices = found.anyOf ?? found.oneOf;
  if (choices?.some((each) => each.type === "null")) {
    const others = choices.filter((each) => each.type !== "null");
    if (others.length === 1) found = { ...resolve(others[0], defs), ...without(found, "anyOf", "oneOf"), nullable: true };
  }
  if (Array.isArray(found.type)) {
    const types = found.type.filter((type) => type !== "null");
    found = { ...found, type: types.length === 1 ? types[0] : undefined, nullable: types.length < found.type.length };
  }
  return found;
}

function without(schema, ...names) {
  return Object.fromEntries(Object.entries(schema).filter(([name]) => !names.includes(name)));
}

function field(name, schema, required, defs, path, depth) {
  if (schema.type === "object" && schema.properties && depth < 3) return nested(name, schema, required, defs, path, depth);
  const id = `field-${++ids}`;
  const { control, parse } = controlFor(schema, required);
  Object.assign(control, { id, name: path });
  control.setAttribute("aria-describedby", `${id}-hint ${id}-problem`);
  if (required) control.setAttribute("aria-required", "true");
  const label = el("label", { htmlFor: id }, name, " ",
    required ? el("span", { className: "req", textContent: "required" }) : "",
    " ", el("span", { className: "kind", textContent: kind(schema, required) }));
  const nil = schema.nullable && control.tagName !== "SELECT" ? nullBox(control) : null;
  const element = el("div", { className: "field", "data-path": path },
    el("div", { className: "label" }, label, ...(nil ? [nil.element] : [])), control,
    el("p", { className: "hint", id: `${id}-hint`, textContent: schema.description ?? "" }),
    el("p", { className: "problem", id: `${id}-problem`, role: "alert" }));
  const read = () => (nil?.box.checked ? { value: null } : readControl(control, parse, path));
  return { element, read };
}

function nested(name, schema, required, defs, path, depth) {
  const inner = group(schema, defs, path, depth + 1);
  const legend = el("legend", {}, name, " ", required ? el("span", { className: "req", textContent: "required" }) : "");
  const problem = el("p", { className: "problem", role: "alert" });
  const element = el("fieldset", { className: "field", "data-path": path }, legend, inner.element, problem);
  const read = () => {
    const { data, problems } = inner.read();
    return { value: required || Object.keys(data).length ? data : undefined, problems };
  };
  return { element, read };
}

function nullBox(control) {
  const box = el("input", { type: "checkbox" });
  box.addEventListener("change", () => (control.disabled = box.checked));
  return { box, element: el("label", { className: "null" }, box, " null") };
}

function readControl(control, parse, path) {
  if (control.value === "") return { value: undefined };
  try {
    return { value: parse(control.value) };
  } catch (error) {
    return { problems: [[path, `This is not JSON: ${error.message}.`]] };
  }
}

/** Return the control for a value of `schema`, and how its text becomes the value. */
function controlFor(schema, required) {
  if (schema.enum) return choice(schema.enum, schema, required);
  if (schema.type === "boolean") return choice(schema.nullable ? [true, false, null] : [true, false], schema, required);
  if (schema.type === "string") return text(schema);
  if (schema.type === "integer" || schema.type === "number") return numeric(schema);
  const list = schema.type === "array";
  if (list || schema.type === "object") {
    const control = el("textarea", { rows: 2, className: "mono", placeholder: list ? "[…]" : "{…}", spellcheck: false });
    return { control, parse: JSON.parse };
  }
  const control = el("input", { className: "mono", autocomplete: "off", spellcheck: false, value: given(schema) });
  return { control, parse: anything };
}

function choice(values, schema, required) {
  const options = values.map((value) => el("option", { value: JSON.stringify(value), textContent: String(value) }));
  const control = el("select", {}, ...options);
  if (!required) control.prepend(el("option", { value: "", textContent: "not sent" }));
  control.value = schema.default !== undefined ? JSON.stringify(schema.default) : required ? options[0]?.value : "";
  return { control, parse: JSON.parse };
}

function text(schema) {
  const long = (schema.maxLength ?? 0) > LONG;
  const control = long ? el("textarea", { rows: 3 }) : el("input", { autocomplete: "off" });
  control.placeholder = schema.format ?? "";
  control.value = given(schema);
  return { control, parse: (value) => value };
}

function numeric(schema) {
  const control = el("input", { inputMode: schema.type === "integer" ? "numeric" : "decimal", autocomplete: "off" });
  control.className = "mono";
  control.value = given(schema);
  return { control, parse: (value) => (/^-?\d+(\.\d+)?(e[+-]?\d+)?$/i.test(value.trim()) ? Number(value) : value) };
}

const given = (schema) => (["string", "number"].includes(typeof schema.default) ? String(schema.default) : "");

/** Any JSON; what is none is taken as text, so that an id can be written as one would say it. */
function anything(value) {
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

/** Say what a field takes, in a few words. */
function kind(schema, required) {
  const words = [];
  if (!required) words.push("optional");
  if (schema.enum || schema.type === "boolean") return words.join(" ");
  const types = { string: "text", integer: "whole number", number: "number", array: "JSON list", object: "JSON object" };
  words.push(types[schema.type] ?? "JSON or text");
  const low = schema.minLength ?? schema.minimum ?? schema.minItems ?? schema.exclusiveMinimum;
  const high = schema.maxLength ?? schema.maximum ?? schema.maxItems ?? schema.exclusiveMaximum;
  const bounds = range(low, high);
  if (bounds) words.push(bounds);
  if (schema.minLength !== undefined || schema.maxLength !== undefined) words.push("characters");
  return words.join(" ");
}

function range(low, high) {
  const [least, most] = [low, high].map((bound) => bound?.toLocaleString("en-US"));
  if (least !== undefined && most !== undefined) return `${least} to ${most}`;
  if (least !== undefined) return `at least ${least}`;
  return most !== undefined ? `at most ${most}` : "";
}
