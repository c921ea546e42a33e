// The page of `moot dev`: two principals at one document, made from the schema of the code that is deployed.
// Text of authors and documents reaches the page as text only.

const SEATS = 2;
const LOG_SHOWN_MAX = 300;
const byId = (id) => document.getElementById(id);
const page = { code: null, key: "main", step: null, steps: 0, seats: [], viewer: "" };

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

async function ask(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, options).then((response) => response.json());
  } catch {
    throw { reason: "UNREACHABLE", message: "moot dev does not answer: does it still run?", details: {} };
  }
  if (answer.error) throw answer.error;
  return answer;
}

const query = (values) => new URLSearchParams(values).toString();

// values as they are shown

function show(value) {
  if (value === null || value === undefined) return make("span", { className: "value none" }, "none");
  if (Array.isArray(value)) return showList(value);
  if (isBlob(value)) return showBlob(value);
  if (typeof value === "object") return showObject(value);
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text === "" ? make("span", { className: "value none" }, "empty") : make("span", { className: "value" }, text);
}

function showList(values) {
  if (values.length === 0) return make("span", { className: "value none" }, "empty");
  if (values.every(isBlob)) return make("span", {}, ...values.map(showBlob));
  if (values.every((value) => typeof value === "object" && value !== null)) return showRows(values.map((value, place) => [place, value]));
  return make("ul", { className: "chips value" }, ...values.map((value) => make("li", {}, value === null ? "–" : String(value))));
}

function showObject(value) {
  const entries = Object.entries(value);
  if (entries.length === 0) return make("span", { className: "value none" }, "empty");
  const objects = entries.every(([, each]) => typeof each === "object" && each !== null && !Array.isArray(each) && !isBlob(each));
  return objects ? showRows(entries) : showMembers(entries);
}

function showMembers(entries) {
  return make("dl", {}, ...entries.flatMap(([name, each]) => [make("dt", {}, name), make("dd", {}, show(each))]));
}

function showRows(entries) {
  const columns = [...new Set(entries.flatMap(([, row]) => Object.keys(row)))];
  const named = entries.some(([name]) => !/^([0-9a-f]{16}|[0-9]+)$/.test(name));
  const head = make("tr", {}, ...(named ? [make("th", {}, "")] : []), ...columns.map((column) => make("th", {}, column)));
  const rows = entries.map(([name, row]) =>
    make("tr", {}, ...(named ? [make("td", {}, name)] : []), ...columns.map((column) => make("td", {}, column in row ? show(flat(row[column])) : ""))));
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
}

const isBlob = (value) => typeof value === "object" && value !== null && Object.keys(value).sort().join() === "hash,media_type,size";

// its bytes, as far as the viewer may have them
function showBlob(blob) {
  const source = `/api/blob?${query({ as: page.viewer, key: page.key, hash: blob.hash })}`;
  const label = `${blob.media_type}, ${blob.size} bytes`;
  const inside = /^image\/(png|jpeg|gif|webp|avif)$/.test(blob.media_type) ? make("img", { src: source, alt: label }) : label;
  return make("a", { className: "blob", href: source, title: `${label}, ${blob.hash}`, download: blob.hash.slice(0, 12) }, inside);
}

// a small record inside of a row reads better on one line
function flat(value) {
  const small = typeof value === "object" && value !== null && !Array.isArray(value) && !isBlob(value)
    && Object.values(value).every((each) => typeof each !== "object" || each === null);
  return small ? Object.values(value).join(" · ") : value;
}

// forms from JSON Schema: each part gives its element, its value, or undefined for "not given", and takes a value to stand there

function definition(schema) {
  if (schema.$ref) return page.code.schema.$defs[schema.$ref.slice("#/$defs/".length)] ?? {};
  return schema;
}

function nullable(schema) {
  const options = schema.anyOf ?? [];
  return options.length === 2 && options[1].type === "null" ? options[0] : null;
}

const isInteger = (schema) => schema.type === "integer" || (schema.anyOf ?? []).some((each) => each.type === "integer");

function field(name, given, required) {
  const inner = nullable(given);
  const schema = definition(inner ?? given);
  const blank = inner !== null && required ? null : undefined;
  if (schema.format === "blob") return file(name, required, blank, false);
  if (schema.type === "array" && schema.items?.format === "blob") return file(name, required, blank, true);
  if (schema.enum) return choice(name, schema.enum, required, blank, given.default);
  if (isInteger(schema)) return text(name, given, required, blank, { inputMode: "numeric", pattern: "-?[0-9]+", title: "a whole number" }, integer);
  if (schema.type === "number") return text(name, given, required, blank, { type: "number", step: "any" }, Number);
  if (schema.type === "boolean") return required && !inner ? checkbox(name) : choice(name, [true, false], required, blank, given.default);
  if (schema.type === "string") return text(name, given, required, blank, hints(schema), String);
  if (schema.type === "object" && schema.properties) return record(name, schema, required && !inner);
  return json(name, schema, required, blank);
}

function integer(typed) {
  const value = Number(typed);
  return Number.isSafeInteger(value) ? value : typed;
}

function hints(schema) {
  if (schema.format === "date-time") return { placeholder: "2030-01-31T12:00:00Z" };
  if (schema.format === "duration") return { placeholder: "PT90S" };
  if (schema.format === "decimal") return { placeholder: "9.99", inputMode: "decimal" };
  if (schema.pattern?.includes("@")) return { placeholder: "ben@local" };
  return schema.contentEncoding ? { placeholder: schema.contentEncoding } : {};
}

function text(name, schema, required, blank, attributes, read) {
  const standard = schema.default === undefined || schema.default === null ? "" : String(schema.default);
  const input = make("input", { name, autocomplete: "off", placeholder: standard, ...attributes });
  const numeric = read !== String;
  if (required && numeric && blank === undefined) input.required = true;
  const value = () => (input.value === "" && (!required || numeric || blank === null) ? blank : read(input.value));
  const set = (one) => { input.value = one === undefined || one === null ? "" : String(one); };
  return { element: labelled(name, required, input), value, set, clear: () => set() };
}

function choice(name, values, required, blank, standard) {
  const options = values.map((value, place) => make("option", { value: String(place) }, value === "" ? "(empty)" : String(value)));
  const none = standard === undefined || standard === null ? "–" : `– (${standard})`;
  if (!required || blank === null) options.unshift(make("option", { value: "" }, none));
  const select = make("select", { name }, ...options);
  const value = () => (select.value === "" ? blank : values[Number(select.value)]);
  const set = (one) => { select.value = values.includes(one) ? String(values.indexOf(one)) : select.options[0].value; };
  return { element: labelled(name, required, select), value, set, clear: () => {} };
}

function checkbox(name) {
  const input = make("input", { name, type: "checkbox" });
  const set = (one) => { input.checked = one === true; };
  return { element: labelled(name, true, input), value: () => input.checked, set, clear: () => {} };
}

// files are read when they are chosen, and sent with what is submitted
function file(name, required, blank, many) {
  const input = make("input", { name, type: "file", multiple: many });
  let chosen = [];
  let reading = null;
  input.addEventListener("change", () => {
    reading = Promise.all([...input.files].map(sent)).then((read) => { chosen = read; });
  });
  const value = () => {
    if (many) return chosen.length || required ? chosen : blank;
    if (chosen.length === 0 && required && blank === undefined) throw { reason: "MISSING", message: `${name}: choose a file`, details: {} };
    return chosen[0] ?? blank;
  };
  const clear = () => { input.value = ""; chosen = []; };
  return { element: labelled(name, required, input), value, set: () => {}, clear, ready: () => reading };
}

async function sent(one) {
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject({ reason: "NOT_READ", message: `${one.name}: ${reader.error.message}`, details: {} });
    reader.readAsDataURL(one);
  });
  const data = url.includes(",") ? url.slice(url.indexOf(",") + 1) : ""; // an empty file
  return one.type === "" ? { data } : { data, media_type: one.type.toLowerCase() };
}

function record(name, schema, required) {
  const parts = Object.entries(schema.properties).map(([each, kind]) => [each, kind.type === "array" || kind.$ref
    ? json(each, kind, (schema.required ?? []).includes(each), undefined)
    : field(each, kind, (schema.required ?? []).includes(each))]);
  const set = make("fieldset", {}, make("legend", {}, name), ...parts.map(([, part]) => part.element));
  const value = () => {
    const found = {};
    for (const [each, part] of parts) {
      const one = part.value();
      if (one !== undefined) found[each] = one;
    }
    return !required && Object.values(found).every((one) => one === "") ? undefined : found;
  };
  const fill = (one) => parts.forEach(([each, part]) => part.set(one?.[each]));
  const ready = () => Promise.all(parts.map(([, part]) => part.ready?.()));
  return { element: set, value, set: fill, ready, clear: () => parts.forEach(([, part]) => part.clear()) };
}

function json(name, schema, required, blank) {
  const lines = schema.type === "array" && definition(schema.items ?? {}).type === "string";
  const area = make("textarea", { name, placeholder: lines ? "one a line" : schema.type === "array" ? "JSON: [ ]" : "JSON: { }", spellcheck: false });
  const value = () => {
    if (area.value.trim() === "") return required && blank === undefined ? (schema.type === "array" ? [] : {}) : blank;
    if (lines && !area.value.trim().startsWith("[")) return area.value.split("\n").map((line) => line.trim()).filter(Boolean);
    try {
      return JSON.parse(area.value);
    } catch (error) {
      throw { reason: "NOT_JSON", message: `${name}: ${error.message}`, details: {} };
    }
  };
  const set = (one) => { area.value = one === undefined ? "" : JSON.stringify(one); };
  return { element: labelled(name, required, area), value, set, clear: () => set() };
}

const labelled = (name, required, input) => make("label", {}, required ? name : `${name}?`, input);

function form(seat, kind, channel, description, title) {
  const given = description.parameters ?? { properties: {}, required: [] };
  const parts = Object.entries(given.properties).map(([name, schema]) => [name, field(name, schema, given.required.includes(name))]);
  const button = make("button", { type: "submit", className: kind === "create" ? "go" : "", title: description.description ?? "" }, title);
  const element = make("form", { className: parts.length ? "" : "none-needed", "aria-label": title }, button, ...parts.map(([, part]) => part.element));
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      await Promise.all(parts.map(([, part]) => part.ready?.()));
      const parameters = {};
      for (const [name, part] of parts) {
        const value = part.value();
        if (value !== undefined) parameters[name] = value;
      }
      const answer = await ask("/api/send", { as: seat.who, key: page.key, kind, channel, parameters });
      seat.tell(title, answer.answer, answer.position);
      parts.forEach(([, part]) => part.clear());
    } catch (error) {
      seat.complain(title, error);
    } finally {
      button.disabled = false;
    }
    refreshLog();
  });
  return element;
}

// what one view, or the window of one table, is asked; blank is its default
function asking(seat, name, given) {
  const parts = Object.entries(given.properties ?? given).map(([each, schema]) => {
    const part = field(each, schema, false);
    if ((given.required ?? []).includes(each)) part.element.firstChild.textContent = each;
    return [each, part];
  });
  const element = make("form", { "aria-label": `arguments of ${name}` }, make("code", {}, name), ...parts.map(([, part]) => part.element));
  element.addEventListener("change", () => seat.look());
  element.addEventListener("submit", (event) => { event.preventDefault(); seat.look(); });
  const value = () => Object.fromEntries(parts.map(([each, part]) => [each, part.value()]).filter(([, one]) => one !== undefined));
  const set = (values) => parts.forEach(([each, part]) => part.set(values?.[each]));
  return { name, element, value, set };
}

// one ask, with a form of the type that its handler takes
function answering(seat, waiting) {
  const known = page.code?.schema?.answers?.[waiting.handler]?.parameters.properties ?? { value: {} };
  const [[name, schema]] = Object.entries(known);
  const part = field(name, schema, true);
  const button = make("button", { type: "submit", className: "go" }, "Answer");
  const until = make("span", { className: "quiet" }, `until ${new Date(waiting.due_ms).toLocaleString()}`);
  const head = make("div", { className: "head" }, make("code", {}, waiting.handler), show(waiting.request), until);
  const element = make("form", { "aria-label": `answer ${waiting.handler}` }, part.element, button);
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      await part.ready?.();
      const value = part.value() ?? null;
      const answer = await ask("/api/answer", { as: seat.who, key: page.key, ask: waiting.ask, value });
      seat.tell(`answer ${waiting.handler}`, answer.answer, answer.position);
    } catch (error) {
      seat.complain(`answer ${waiting.handler}`, error);
    } finally {
      button.disabled = false;
    }
    refreshLog();
  });
  return make("div", { className: "ask" }, head, element);
}

// one principal

class Seat {
  constructor(who) {
    this.who = who;
    this.before = {};
    this.state = null;
    this.element = byId("seat").content.firstElementChild.cloneNode(true);
    const find = (name) => this.element.querySelector(`.${name}`);
    [this.view, this.looking, this.events, this.outcome, this.asks, this.forms] = ["view", "looking", "events", "outcome", "asks", "forms"].map(find);
    [this.position, this.live] = ["position", "live"].map(find);
    this.asking = [];
    this.waiting = new Map();
    this.input = find("who");
    this.input.value = who;
    this.input.addEventListener("change", () => {
      this.who = this.input.value.trim() || "alice";
      this.open();
      remember();
      if (page.step !== null) showPast();
    });
  }

  open() {
    this.source?.close();
    this.before = {};
    this.state = null;
    this.element.setAttribute("aria-label", this.who);
    this.source = new EventSource(`/api/live?${query({ as: this.who, key: page.key })}`);
    this.source.addEventListener("view", (event) => this.take(JSON.parse(event.data)));
    this.source.addEventListener("code", (event) => takeCode(JSON.parse(event.data)));
    this.source.onopen = () => this.mark();
    this.source.onerror = async () => {
      this.mark();
      if (this.source.readyState === EventSource.CLOSED) {
        await ask(`/api/live?${query({ as: this.who, key: page.key })}`).catch((error) => this.complain("watch", error));
      }
    };
  }

  mark() {
    const off = this.source.readyState !== EventSource.OPEN;
    this.live.textContent = page.step !== null ? "past" : off ? "not connected" : "live";
    this.live.className = `live${page.step !== null ? " past" : off ? " off" : ""}`;
  }

  take(state) {
    this.state = state;
    this.events.hidden = state.events.length === 0;
    this.events.replaceChildren(...state.events.slice(-20).reverse().map((event) => make("span", { title: `at ${event.position}` }, `${event.name} `, JSON.stringify(event.value))));
    if (page.step === null) this.showNow();
    this.showForms();
    this.showAsks();
    this.showArguments();
    scheduleLog();
  }

  showAsks() {
    const asks = this.state?.asks ?? [];
    page.viewer = this.who;
    const schema = JSON.stringify(page.code?.schema?.answers);
    if (schema !== this.answers) this.waiting.clear();
    this.answers = schema;
    const before = this.waiting;
    this.waiting = new Map(asks.map((one) => [one.ask, before.get(one.ask) ?? answering(this, one)]));
    this.asks.hidden = asks.length === 0;
    for (const [id, element] of before) if (this.waiting.get(id) !== element) element.remove();
    for (const element of this.waiting.values()) if (!element.isConnected) this.asks.append(element); // what is typed stays
  }

  showArguments() {
    const schema = page.code?.schema;
    const parts = Object.entries({ ...schema?.fields, ...schema?.views }).filter(([, one]) => one.arguments);
    const shape = JSON.stringify(parts);
    if (shape !== this.askingShape) {
      this.askingShape = shape;
      this.asking = parts.map(([name, one]) => asking(this, name, one.arguments));
      this.looking.replaceChildren(...this.asking.map((one) => one.element));
    }
    this.looking.hidden = parts.length === 0 || this.state?.view === null;
    const now = this.state?.arguments ?? {};
    const typing = this.looking.contains(document.activeElement);
    if (!typing) this.asking.forEach((one) => one.set(now[one.name]));
  }

  async look() {
    try {
      const given = this.asking.map((one) => [one.name, one.value()]).filter(([, values]) => Object.keys(values).length > 0);
      await ask("/api/arguments", { as: this.who, key: page.key, arguments: Object.fromEntries(given) });
    } catch (error) {
      this.complain("arguments", error);
      return;
    }
    if (page.step !== null) showPast();
  }

  showNow() {
    if (this.state === null) return;
    this.position.textContent = this.state.position ? `at ${this.state.position}` : "";
    this.show(this.state.view, this.state.ended, true);
    this.view.classList.remove("past");
    this.mark();
  }

  showThen(then, position) {
    this.position.textContent = `at ${position}`;
    this.show(then.view, then.ended, false);
    this.view.classList.add("past");
    this.mark();
  }

  show(view, ended, flash) {
    page.viewer = this.who;
    if (view === null) {
      const absent = ended?.reason === "UNKNOWN_DOCUMENT" || ended?.reason === "DOCUMENT_DELETED";
      this.view.replaceChildren(make("p", { className: "quiet" }, absent ? "There is no document here yet." : ended ? `${ended.reason}: ${ended.message}` : "…"));
      this.before = {};
      return;
    }
    const first = Object.keys(this.before).length === 0;
    const list = make("dl", {});
    const now = {};
    for (const [name, value] of Object.entries(view)) {
      now[name] = JSON.stringify(value);
      const changed = flash && !first && now[name] !== this.before[name];
      list.append(make("dt", {}, name), make("dd", { className: changed ? "changed" : "" }, show(value)));
    }
    this.before = now;
    this.view.replaceChildren(list);
  }

  showForms() {
    const schema = page.code?.schema;
    const absent = this.state?.view === null;
    const shape = JSON.stringify([schema, absent]);
    if (!schema || shape === this.shape) return; // what is typed stays
    this.shape = shape;
    if (absent) {
      this.forms.replaceChildren(form(this, "create", "", schema.construct, "Create the document"));
      return;
    }
    const made = Object.entries(schema.channels).map(([channel, description]) => form(this, "send", channel, description, channel));
    if (schema.deletable) made.push(form(this, "delete", "", {}, "delete"));
    const plain = made.filter((each) => each.className === "none-needed");
    const rest = made.filter((each) => each.className !== "none-needed");
    this.forms.replaceChildren(...rest, ...(plain.length ? [make("div", { className: "plain" }, ...plain)] : []));
  }

  tell(title, answer, position) {
    this.outcome.hidden = false;
    this.outcome.className = "outcome";
    this.outcome.replaceChildren(make("strong", {}, title), answer === null ? " done" : ` answered ${JSON.stringify(answer)}`, make("span", { className: "quiet" }, ` at ${position}`));
  }

  complain(title, error) {
    const name = error.details?.name ?? error.reason;
    this.outcome.hidden = false;
    this.outcome.className = "outcome bad";
    this.outcome.replaceChildren(make("strong", {}, `${title}: ${name}`), ` ${error.message}`, ...(error.frames ? [make("pre", {}, error.frames)] : []));
  }
}

// the code

function takeCode(code) {
  const before = JSON.stringify(page.code);
  page.code = code;
  if (before === JSON.stringify(code)) return;
  const schema = code.schema;
  byId("document").textContent = schema ? schema.document : "moot dev";
  document.title = schema ? `${schema.document} – moot dev` : "moot dev";
  byId("description").textContent = schema ? schema.description.split("\n\n")[0] : code.path;
  byId("save").textContent = schema ? `version ${schema.version}, save ${code.saves}` : "not deployed";
  byId("save").title = code.path;
  byId("save").classList.toggle("stale", code.findings !== "");
  byId("findings").hidden = code.findings === "";
  byId("findings-text").textContent = code.findings;
  byId("findings-note").textContent = code.needs_fresh_start
    ? "Documents can not get this code as it is. Write what it asks for, or start over without them."
    : schema ? "The page goes on with the code before. Save again when it is corrected." : "Save the file again when it is corrected.";
  page.seats.forEach((seat) => { seat.showForms(); seat.showAsks(); seat.showArguments(); });
}

// the log and the past

let logTimer = 0;

function scheduleLog() {
  clearTimeout(logTimer);
  logTimer = setTimeout(refreshLog, 120);
}

async function refreshLog() {
  let commands;
  try {
    ({ commands } = await ask(`/api/log?${query({ key: page.key })}`));
  } catch (error) {
    byId("slider-text").textContent = error.message;
    return;
  }
  page.steps = commands.length;
  const slider = byId("slider");
  slider.disabled = commands.length === 0;
  slider.max = String(Math.max(1, commands.length));
  if (page.step === null) slider.value = slider.max;
  byId("log-empty").hidden = commands.length > 0;
  byId("log").replaceChildren(...commands.slice(-LOG_SHOWN_MAX).reverse().map(logRow));
  markStep();
}

function logRow(command) {
  const bad = command.code !== "OK";
  const what = command.kind === "send" ? command.channel : command.kind;
  const outcome = bad ? (command.answer?.name ?? command.code.toLowerCase()) : command.answer === null ? "done" : JSON.stringify(command.answer);
  const row = make("tr", { tabIndex: 0 },
    make("td", {}, command.position), make("td", {}, command.sender),
    make("td", {}, make("code", {}, what, command.kind === "upgrade" || command.payload === "{}" || !command.payload ? "" : ` ${command.payload}`)),
    make("td", { className: bad ? "bad" : "" }, outcome), make("td", { className: "quiet" }, new Date(command.time_ms).toLocaleTimeString()));
  row.dataset.step = command.step;
  row.addEventListener("click", () => goTo(command.step));
  row.addEventListener("keydown", (event) => { if (event.key === "Enter") goTo(command.step); });
  return row;
}

function goTo(step) {
  page.step = step;
  byId("slider").value = String(step);
  showPast();
}

function backToNow() {
  page.step = null;
  byId("slider").value = byId("slider").max;
  page.seats.forEach((seat) => { seat.before = {}; seat.showNow(); });
  markStep();
}

let asked = 0;

async function showPast() {
  markStep();
  const mine = ++asked;
  const names = page.seats.map((seat) => ["as", seat.who]);
  try {
    const then = await ask(`/api/past?${query([["key", page.key], ["step", page.step], ...names])}`);
    if (mine !== asked || page.step === null) return;
    page.seats.forEach((seat, place) => seat.showThen(then.views[place], then.position));
  } catch (error) {
    page.seats[0].complain("past", error);
  }
}

function markStep() {
  byId("now").hidden = page.step === null;
  byId("slider-text").textContent = page.steps === 0 ? "" : page.step === null ? `now (${page.steps})` : `${page.step} of ${page.steps}`;
  for (const row of byId("log").children) row.setAttribute("aria-current", String(Number(row.dataset.step) === page.step));
}

function remember() {
  const values = [...page.seats.map((seat) => ["as", seat.who]), ...(page.key === "main" ? [] : [["key", page.key]])];
  history.replaceState(null, "", `/?${query(values)}`);
}

function begin() {
  const given = new URLSearchParams(location.search);
  const names = given.getAll("as");
  page.key = given.get("key") || "main";
  byId("key").value = page.key;
  page.seats = ["alice", "ben"].slice(0, SEATS).map((name, place) => new Seat(names[place] || name));
  byId("seats").replaceChildren(...page.seats.map((seat) => seat.element));
  ask("/api/code").then(takeCode).catch((error) => page.seats[0].complain("code", error));
  page.seats.forEach((seat) => seat.open());
  byId("slider").addEventListener("input", (event) => {
    const step = Number(event.target.value);
    if (step >= page.steps) backToNow();
    else goTo(step);
  });
  byId("now").addEventListener("click", backToNow);
  byId("key").addEventListener("change", (event) => {
    page.key = event.target.value.trim() || "main";
    page.step = null;
    page.seats.forEach((seat) => seat.open());
    remember();
    refreshLog();
  });
  byId("restart").addEventListener("click", async () => {
    if (!confirm("Forget all documents and begin again with the newest code?")) return;
    page.step = null;
    try {
      takeCode(await ask("/api/restart", {}));
    } catch (error) {
      page.seats[0].complain("start over", error);
    }
    refreshLog();
  });
  refreshLog();
}

begin();
