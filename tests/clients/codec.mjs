// Values that we encoded, decoded by an implementation of JavaScript and encoded again from what it
// understood. Prints one JSON list: of each case the bytes it made, or what it said instead.
//
//   node codec.mjs @polkadot/types|substrate-bindings METADATA.scale CASES.json
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [, , codec, file, cases] = process.argv;
const bytes = new Uint8Array(readFileSync(file));
const hex = (data) => Buffer.from(data).toString("hex");
const decoders = { "@polkadot/types": polkadotTypes, "substrate-bindings": bindings };
const recode = decoders[codec]();

/** By way of its JSON where that says all: what it writes then cannot come from bytes it kept. */
function polkadotTypes() {
  const { Metadata, TypeRegistry } = createRequire(resolve("index.js"))("@polkadot/types");
  const registry = new TypeRegistry();
  registry.setMetadata(new Metadata(registry, `0x${hex(bytes)}`));
  return (type, data, plain) => {
    const name = typeof type === "string" ? type : registry.createLookupType(type);
    const read = registry.createType(name, data);
    if (read.encodedLength !== data.length) return `${read.encodedLength} bytes were read`;
    const made = plain ? registry.createType(name, read.toJSON()) : read;
    return hex(made.toU8a());
  };
}

function bindings() {
  const load = createRequire(resolve("node_modules/polkadot-api/index.js"));
  const { decAnyMetadata, unifyMetadata } = load("@polkadot-api/substrate-bindings");
  const { getDynamicBuilder, getLookupFn } = load("@polkadot-api/metadata-builders");
  const builder = getDynamicBuilder(getLookupFn(unifyMetadata(decAnyMetadata(bytes))));
  const made = new Map();
  return (type, data) => {
    if (!made.has(type)) made.set(type, builder.buildDefinition(type));
    const { enc, dec } = made.get(type);
    return hex(enc(dec(data)));
  };
}

const out = JSON.parse(readFileSync(cases)).map(([type, data, plain]) => {
  try {
    return recode(type, new Uint8Array(Buffer.from(data, "hex")), plain);
  } catch (error) {
    return `${error.message}`.slice(0, 200);
  }
});
console.log(JSON.stringify(out));
