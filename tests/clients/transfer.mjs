// A transfer as any wallet makes it, with unmodified @polkadot/api: connect, read, estimate, sign,
// wait for inclusion and finality, see a failing call's error. Prints one JSON object.
//
//   node transfer.mjs ws://127.0.0.1:PORT
import { ApiPromise, Keyring, WsProvider } from "@polkadot/api";

const PHA = 10n ** 12n;
const provider = new WsProvider(process.argv[2], 1000);
const api = await ApiPromise.create({ provider, noInitWarn: true });
const keyring = new Keyring({ type: "sr25519", ss58Format: api.registry.chainSS58 });
const alice = keyring.addFromUri("//Alice");
const bob = keyring.addFromUri("//Bob");
const free = async (who) => (await api.query.system.account(who.address)).data.free.toBigInt();

/** Send, and settle when it is finalized: what was seen on the way. */
function send(call, signer) {
  return new Promise((resolve, reject) => {
    const seen = [];
    call
      .signAndSend(signer, ({ status, events, dispatchError }) => {
        seen.push(status.type);
        if (status.isFinalized) {
          resolve({
            seen,
            block: status.asFinalized.toHex(),
            events: events.map(({ event }) => `${event.section}.${event.method}`),
            error: dispatchError?.isModule
              ? api.registry.findMetaError(dispatchError.asModule).name
              : dispatchError?.toString(),
          });
        } else if (status.isInvalid || status.isDropped) {
          reject(new Error(`the transaction is ${status.type}`));
        }
      })
      .catch(reject);
  });
}

const before = { alice: await free(alice), bob: await free(bob) };
const call = api.tx.balances.transferKeepAlive(bob.address, 3n * PHA);
const { partialFee } = await call.paymentInfo(alice);
const sent = await send(call, alice);
const after = { alice: await free(alice), bob: await free(bob) };
const failed = await send(api.tx.balances.transferKeepAlive(bob.address, before.alice * 2n), alice);

const block = await api.rpc.chain.getBlock(sent.block);
// The client keeps the block as it was when it was not final yet: ask beside it.
const signed = api.createType(
  "SignedBlock",
  await provider.send("chain_getBlock", [sent.block]),
);
const at = await api.at(sent.block);
const finalized = await api.rpc.chain.getFinalizedHead();
const keys = await api.rpc.state.getKeysPaged(api.query.system.account.keyPrefix(), 100);

console.log(
  JSON.stringify({
    chain: (await api.rpc.system.chain()).toString(),
    address: alice.address,
    existentialDeposit: api.consts.balances.existentialDeposit.toString(),
    pallets: api.runtimeMetadata.asLatest.pallets.map(({ name }) => name.toString()),
    fee: partialFee.toString(),
    paid: (before.alice - after.alice).toString(),
    received: (after.bob - before.bob).toString(),
    sent,
    failed,
    extrinsics: block.block.extrinsics.map(({ method }) => `${method.section}.${method.method}`),
    receivedThen: (await at.query.system.account(bob.address)).data.free.toString(),
    bob: after.bob.toString(),
    justification: signed.justifications.toHuman(),
    finalizedIsBlock: (await api.rpc.chain.getHeader(finalized)).number.toNumber() > 0,
    accounts: keys.length,
  }),
);
await api.disconnect();
