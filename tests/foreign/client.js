// A client of the public protocol written from the proto files alone: it shares no code with the project.
//
//   node client.js HOST:PORT SPACE KEY [CHANNEL] [PRINCIPAL] [PAYLOAD]
//
// Creates SPACE/KEY, sends, reads, watches and lists with unary calls, then pipelines over a session, breaks its stream and sends
// again under the same sequences. Prints one JSON object of what the server said; exits with 1 and the reason if a call fails.
"use strict";

const crypto = require("crypto");
const path = require("path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, space, key, channel = "echo", principal = "nadia@acme", payload = '{"n":0}'] = process.argv.slice(2);
const PIPELINED = 100;
const DEADLINE_MS = 30000;

const definition = loader.loadSync("cluster/v1/documents.proto", {
  includeDirs: [path.join(__dirname, "..", "..", "proto")],
  keepCase: true,
  longs: Number,
  enums: String,
  oneofs: true,
  defaults: true,
  arrays: true,
});
const { DocumentService } = grpc.loadPackageDefinition(definition).cluster.v1;
const client = new DocumentService(address, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
metadata.set("moot-principal", principal);

// The n-th parameters: the given ones with every "$n" replaced, so that writes differ.
const parameters = (n) => Buffer.from(payload.replaceAll("$n", String(n)));
const document = { space, key };

function call(method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, metadata, { deadline: Date.now() + DEADLINE_MS }, (error, response) =>
      error ? reject(error) : resolve(response),
    );
  });
}

// The reason in google.rpc.ErrorInfo, read without its proto file: field 1 of the first detail.
function reasonOf(error) {
  const details = error.metadata.get("grpc-status-details-bin")[0];
  const match = /ErrorInfo[^\n]*?\n.([A-Z_]+)/s.exec(details ? details.toString("latin1") : "");
  return match ? match[1] : "";
}

// 16 bytes in the form of a UUID version 7.
function newSession() {
  const session = crypto.randomBytes(16);
  session.writeUIntBE(Date.now(), 0, 6);
  session[6] = 0x70 | (session[6] & 0x0f);
  session[8] = 0x80 | (session[8] & 0x3f);
  return session;
}

// One session stream: `ask` resolves with the replies of its operations by id; deltas are collected in order.
function openSession(session) {
  const stream = client.Session(metadata, { deadline: Date.now() + DEADLINE_MS });
  const waiting = new Map();
  const state = { deltas: [], frames: 0, order: [] };
  let opened;
  const ready = new Promise((resolve, reject) => {
    opened = resolve;
    stream.on("error", reject);
  });
  stream.on("data", (frame) => {
    if (frame.opened) opened(frame.opened);
    if (frame.events.length) state.frames += 1;
    for (const event of frame.events) {
      if (event.event === "delta") {
        state.deltas.push(event.delta);
        state.order.push(["delta", event.delta.position.index]);
      } else if (event.event === "reply") {
        if (event.reply.position) state.order.push(["reply", event.reply.position.index]);
        const settle = waiting.get(event.reply.id);
        waiting.delete(event.reply.id);
        settle(event.reply);
      }
    }
  });
  stream.write({ open: { session, client_name: "moot-node-test" } });
  state.ready = ready;
  state.ask = (operations) => {
    const replies = operations.map(({ id }) => new Promise((resolve) => waiting.set(id, resolve)));
    stream.write({ operations });
    return Promise.all(replies);
  };
  state.close = () => {
    stream.on("error", () => {});
    stream.cancel();
  };
  state.end = () => stream.end();
  return state;
}

// `opened` is called with the first view: what is sent before may be in it already.
function watchUntil(index, opened) {
  return new Promise((resolve, reject) => {
    const stream = client.Watch({ document }, metadata, { deadline: Date.now() + DEADLINE_MS });
    const seen = [];
    stream.on("data", (response) => {
      seen.push({ change: response.change, base: response.base, position: response.position });
      opened();
      if (response.position.index >= index) {
        stream.on("error", () => {});
        stream.cancel();
        resolve(seen);
      }
    });
    stream.on("error", reject);
  });
}

async function unaryCalls(report) {
  const created = await call("Create", { document, payload: Buffer.from("{}") });
  report.created = created.position;
  report.created_again = await call("Create", { document }).then(
    () => "",
    (error) => ({ code: grpc.status[error.code], reason: reasonOf(error) }),
  );
  const once = { document, channel, payload: parameters(1), idempotency_key: crypto.randomBytes(12) };
  report.sent = (await call("Send", once)).position;
  report.sent_again = (await call("Send", once)).position;
  const read = await call("Read", { document });
  report.read = { position: read.position, view: JSON.parse(read.view.toString()) };
  report.listed = [];
  let page_token = "";
  do {
    const page = await call("List", { space, key_prefix: key, page_token });
    report.listed.push(...page.documents.map((summary) => summary.document.key));
    page_token = page.next_page_token;
  } while (page_token);
  let watching;
  await new Promise((resolve, reject) => {
    watching = watchUntil(read.position.index + 1, resolve);
    watching.catch(reject);
  });
  await call("Send", { document, channel, payload: parameters(2) });
  report.watched = await watching;
}

async function sessionCalls(report) {
  const session = newSession();
  const first = openSession(session);
  report.opened = await first.ready;
  const [watching] = await first.ask([{ id: 1, document, watch: {} }]);
  report.watch_error = watching.error;
  const sends = [];
  for (let n = 1; n <= PIPELINED; n += 1) {
    sends.push({
      id: 100 + n,
      document,
      sequence: n,
      acked_through: 0,
      send: { channel, payload: parameters(100 + n) },
    });
  }
  const replies = await first.ask(sends);
  report.pipelined = replies.map((reply) => (reply.error ? reply.error.reason : reply.position.index));
  report.frames = first.frames;
  report.order = first.order.slice(-3);
  report.last_delta = first.deltas.length ? first.deltas[first.deltas.length - 1].position : null;
  first.close();

  const second = openSession(session);
  await second.ready;
  const again = await second.ask([sends[PIPELINED - 1]]);
  report.repeated = again[0].error ? again[0].error.reason : again[0].position.index;
  const gap = { ...sends[0], id: 7, sequence: PIPELINED + 5 };
  const [skipped] = await second.ask([gap]);
  report.gap = { reason: skipped.error.reason, applied: skipped.error.applied, details: skipped.error.details };
  const [view] = await second.ask([{ id: 8, document, read: { consistency: "CONSISTENCY_LINEARIZABLE" } }]);
  report.final = { position: view.position, view: JSON.parse(view.payload.toString()) };
  const [nameless] = await second.ask([{ id: 9, document: { space, key: "" }, read: {} }]);
  report.nameless = nameless.error.reason;
  second.end();
}

async function main() {
  const report = {};
  await unaryCalls(report);
  await sessionCalls(report);
  report.deleted = await call("Delete", { document }).then(
    (response) => ({ position: response.position }),
    (error) => ({ code: grpc.status[error.code], reason: reasonOf(error) }),
  );
  process.stdout.write(JSON.stringify(report) + "\n");
}

main()
  .then(() => client.close())
  .catch((error) => {
    process.stderr.write(`${error.stack}\n`);
    process.exitCode = 1;
    client.close();
  });
