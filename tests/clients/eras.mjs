// The period and the phase of eras of two bytes, by unmodified @polkadot/types.
//
//   node eras.mjs ERAS.json
import { readFileSync } from "node:fs";
import { TypeRegistry } from "@polkadot/types";

const registry = new TypeRegistry();
const eras = JSON.parse(readFileSync(process.argv[2]));
console.log(
  JSON.stringify(
    eras.map((each) => {
      const { period, phase } = registry.createType("ExtrinsicEra", `0x${each}`).asMortalEra;
      return [period.toNumber(), phase.toNumber()];
    }),
  ),
);
