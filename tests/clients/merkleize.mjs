// The digest of a chain's metadata (RFC-78), by unmodified @polkadot-api/merkleize-metadata.
//
//   node merkleize.mjs METADATA.scale SPEC_VERSION
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [, , file, version] = process.argv;
const load = createRequire(resolve("node_modules/polkadot-api/index.js"));
const { merkleizeMetadata } = load("@polkadot-api/merkleize-metadata");
const made = merkleizeMetadata(new Uint8Array(readFileSync(file)), {
  decimals: 12,
  tokenSymbol: "PHA",
  specName: "phala",
  specVersion: Number(version),
  base58Prefix: 30,
});
console.log(JSON.stringify({ digest: Buffer.from(made.digest()).toString("hex") }));
