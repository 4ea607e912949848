// Node's gRPC library, unmodified, from the protos alone: no line of QLLM's own client is used.
//
// tests/contracts/__main__.py starts the service and says in the environment where it is:
// QLLM_ADDRESS, QLLM_TLS_CA, QLLM_API_KEY, QLLM_PROTOS.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";

import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const { QLLM_ADDRESS, QLLM_TLS_CA, QLLM_API_KEY, QLLM_PROTOS } = process.env;
const CALL_MS = 60_000;

const files = ["inference", "admin", "batches"].map((name) => `qllm/v1/${name}.proto`);
const loaded = loadSync(files, { includeDirs: [QLLM_PROTOS], keepCase: true, defaults: true, enums: String, longs: Number, oneofs: true });
const { qllm } = grpc.loadPackageDefinition(loaded);
const credentials = grpc.credentials.createSsl(readFileSync(QLLM_TLS_CA));
const inference = new qllm.v1.InferenceService(QLLM_ADDRESS, credentials);
const batches = new qllm.v1.BatchesService(QLLM_ADDRESS, credentials);
after(() => [inference, batches].forEach((client) => client.close()));

const key = new grpc.Metadata();
key.set("authorization", `Bearer ${QLLM_API_KEY}`);
const soon = () => ({ deadline: Date.now() + CALL_MS });

const generate = (request, metadata = key) => inference.Generate(request, metadata, soon());
const call = (client, method, request) =>
  new Promise((resolve, reject) =>
    client[method](request, key, soon(), (error, answer) => (error ? reject(error) : resolve(answer))),
  );

async function all(stream) {
  const messages = [];
  for await (const message of stream) messages.push(message);
  return messages;
}

const request = (maxTokens) => ({
  text: "def add(a, b):",
  sampling: { temperature: 0 },
  stop: { max_tokens: maxTokens, ignore_eos: true },
});

test("a request streams all its tokens in order, and ends once with what it used", async () => {
  const messages = await all(generate(request(12)));
  assert.deepEqual(messages.map((message) => message.sequence_number), messages.map((_, index) => index));
  assert.equal(messages.flatMap((message) => message.token_ids).length, 12);
  assert.deepEqual(messages.map((message) => message.finish !== null), messages.map((_, i) => i === messages.length - 1));
  const { reason, usage } = messages.at(-1).finish;
  assert.equal(reason, "FINISH_REASON_LENGTH");
  assert.equal(usage.completion_tokens, 12);
});

test("a chat of both classes is answered", async () => {
  for (const request_class of ["REQUEST_CLASS_LATENCY_SENSITIVE", "REQUEST_CLASS_BEST_EFFORT"]) {
    const chat = { messages: [{ role: "user", content: "hello" }] };
    const messages = await all(generate({ chat, request_class, stop: { max_tokens: 3, ignore_eos: true } }));
    assert.equal(messages.at(-1).finish.usage.completion_tokens, 3);
  }
});

test("a stream that is cancelled ends, and its request is gone", async () => {
  const stream = generate({ ...request(1000), request_id: "cancelled" });
  let numMessages = 0;
  const error = await new Promise((resolve, reject) => {
    stream.on("data", () => (numMessages += 1) === 1 && stream.cancel());
    stream.on("error", resolve);
    stream.on("end", () => reject(new Error("it ran to its end")));
  });
  assert.equal(error.code, grpc.status.CANCELLED);
  await untilGone("cancelled");
});

async function untilGone(request_id) {
  // Its name is free once it is over: until then a request of the same name is refused.
  for (;;) {
    try {
      return await all(generate({ ...request(1), request_id }));
    } catch (error) {
      assert.equal(error.code, grpc.status.ALREADY_EXISTS);
    }
  }
}

test("a request is aborted by its name from another call", async () => {
  const stream = generate({ ...request(1000), request_id: "aborted" });
  const messages = [];
  for await (const message of stream) {
    if (messages.push(message) === 1) assert.ok((await call(inference, "Abort", { request_id: "aborted" })).aborted);
  }
  assert.equal(messages.at(-1).finish.reason, "FINISH_REASON_ABORTED");
});

test("a bad value is refused by name, and a call without a key by its status", async () => {
  await assert.rejects(all(generate(request(-1))), { code: grpc.status.INVALID_ARGUMENT, details: /^stop\.max_tokens: got -1/ });
  await assert.rejects(all(generate(request(1), new grpc.Metadata())), { code: grpc.status.UNAUTHENTICATED });
});

test("a job is submitted, followed to its end, listed, and accepted once", async () => {
  const submit = () =>
    new Promise((resolve, reject) => {
      const upload = batches.CreateBatch(key, soon(), (error, job) => (error ? reject(error) : resolve(job)));
      upload.write({ header: { idempotency_key: "from node", metadata: { who: "node" } } });
      for (const custom_id of ["first", "second", "third"]) upload.write({ item: { custom_id, request: request(4) } });
      upload.end();
    });
  const job = await submit();
  assert.deepEqual([job.num_items, job.metadata], [3, { who: "node" }]);
  assert.equal((await submit()).batch_id, job.batch_id);
  const results = await all(batches.StreamResults({ batch_id: job.batch_id, follow: true }, key, soon()));
  assert.deepEqual(results.map((result) => result.custom_id), ["first", "second", "third"]);
  for (const { outcome, response } of results) {
    assert.equal(outcome, "response");
    assert.equal(response.token_ids.length, 4);
  }
  assert.equal((await call(batches, "GetBatch", { batch_id: job.batch_id })).status, "BATCH_STATUS_COMPLETED");
  const listed = await call(batches, "ListBatches", {});
  assert.deepEqual(listed.batches.map((one) => one.batch_id), [job.batch_id]);
});

test("a job is cancelled", async () => {
  const job = await new Promise((resolve, reject) => {
    const upload = batches.CreateBatch(key, soon(), (error, job) => (error ? reject(error) : resolve(job)));
    upload.write({ header: {} });
    upload.write({ item: { custom_id: "long", request: request(1000) } });
    upload.end();
  });
  await call(batches, "CancelBatch", { batch_id: job.batch_id });
  const results = await all(batches.StreamResults({ batch_id: job.batch_id, follow: true }, key, soon()));
  assert.deepEqual(results.map((result) => result.error?.code), ["CANCELLED"]);
});
