// Signed extrinsics taken apart and put together again, by unmodified @polkadot/types.
//
//   node extrinsics.mjs METADATA.scale EXTRINSICS.json
import { readFileSync } from "node:fs";
import { Metadata, TypeRegistry } from "@polkadot/types";

const [, , file, list] = process.argv;
const hex = (data) => Buffer.from(data).toString("hex");
const registry = new TypeRegistry();
registry.setMetadata(new Metadata(registry, `0x${hex(readFileSync(file))}`));
console.log(
  JSON.stringify(
    JSON.parse(readFileSync(list)).map((each) => {
      const read = registry.createType("Extrinsic", `0x${each}`);
      return {
        whole: hex(read.toU8a()),
        signer: hex(read.signer.toU8a()),
        signature: hex(read.inner.signature.multiSignature.toU8a()),
        era: hex(read.era.toU8a()),
        nonce: read.nonce.toNumber(),
        tip: read.tip.toString(),
        call: hex(read.method.toU8a()),
      };
    }),
  ),
);
