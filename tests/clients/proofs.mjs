// Read proofs of our node, verified and read by unmodified @polkadot-api/substrate-bindings. Prints
// one JSON list: for each proof the root and the trie's nodes by their hashes, or null.
//
//   node proofs.mjs PROOFS.json
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const load = createRequire(resolve("node_modules/polkadot-api/index.js"));
const { validateProofs } = load("@polkadot-api/substrate-bindings");
const proofs = JSON.parse(readFileSync(process.argv[2]));
console.log(JSON.stringify(proofs.map((proof) => validateProofs(proof))));
