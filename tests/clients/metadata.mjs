// What the metadata of a chain says, as a decoder of JavaScript reads it. Prints one JSON object:
// the decoder's own shape, which `metadata_forms.py` brings to the common one.
//
//   node metadata.mjs @polkadot/types|substrate-bindings METADATA.scale [FOLDER]
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [, , decoder, file, folder = "."] = process.argv;
const bytes = new Uint8Array(readFileSync(file));
const hex = (data) => `0x${Buffer.from(data).toString("hex")}`;

/** As a package depends on it: npm may keep several versions of one. */
async function dependencyOf(owner, name) {
  const load = createRequire(resolve("node_modules", owner, "index.js"));
  return load(name);
}

if (decoder === "@polkadot/types") {
  const { Metadata, TypeRegistry } = createRequire(resolve(folder, "index.js"))(decoder);
  const read = new Metadata(new TypeRegistry(), hex(bytes));
  console.log(JSON.stringify((read.version === 14 ? read.asV14 : read.asV15).toJSON()));
} else {
  const { metadata } = await dependencyOf("polkadot-api", "@polkadot-api/substrate-bindings");
  const plain = (_, value) => (value instanceof Uint8Array ? hex(value) : value);
  console.log(JSON.stringify(metadata.dec(bytes).metadata.value, plain));
}
