// A js-libp2p node that does what it is told on standard input, a line of JSON each:
//   {"do": "dial", "address": A}                      connect
//   {"do": "open", "protocols": [P], "send": BASE64}  a stream: send, end our half, read to its end
//   {"do": "push", "protocol": P, "bytes": N}         send N zero bytes, then as above
//   {"do": "pull", "protocol": P, "bytes": N}         read N bytes, then reset
//   {"do": "hang up"}                                 close all connections
// Answers and what happens go to standard output, a line of JSON each.
// Arguments: the seed of its key in hex; the port to listen on; {PROTOCOL: BASE64}: what it
// answers on streams that others open, once something has come.
import { createInterface } from 'node:readline'

// js-libp2p is written for Node 22; with this it runs on 20 too.
Promise.withResolvers ??= function () {
  const made = {}
  made.promise = new this((resolve, reject) => Object.assign(made, { resolve, reject }))
  return made
}

const { createLibp2p } = await import('libp2p')
const { noise } = await import('@chainsafe/libp2p-noise')
const { yamux } = await import('@chainsafe/libp2p-yamux')
const { tcp } = await import('@libp2p/tcp')
const { generateKeyPairFromSeed } = await import('@libp2p/crypto/keys')
const { multiaddr } = await import('@multiformats/multiaddr')

const [seed, port, answers] = process.argv.slice(-3)
const say = (line) => process.stdout.write(JSON.stringify(line) + '\n')
const bytes = (text) => new Uint8Array(Buffer.from(text, 'base64'))
const base64 = (chunks) => Buffer.concat(chunks).toString('base64')
const plain = (chunk) => Buffer.from(chunk.subarray())

const node = await createLibp2p({
  privateKey: await generateKeyPairFromSeed('Ed25519', Buffer.from(seed, 'hex')),
  addresses: { listen: [`/ip4/127.0.0.1/tcp/${port}`] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionManager: { reconnectRetries: 0 },
  connectionMonitor: { enabled: false }
})
for (const [protocol, answer] of Object.entries(JSON.parse(answers))) {
  await node.handle(protocol, async (stream) => {
    try {
      for await (const chunk of stream) {
        say({ event: 'stream', protocol, received: base64([plain(chunk)]) })
        if (answer !== '') stream.send(bytes(answer))
        break
      }
      if (answer !== '') await stream.close()
    } catch (error) {
      say({ event: 'failed', protocol, error: String(error) })
    }
  })
}
node.addEventListener('connection:open', ({ detail }) => {
  say({
    event: 'connected',
    security: detail.encryption,
    muxer: detail.multiplexer,
    direction: detail.direction
  })
})
node.addEventListener('connection:close', () => say({ event: 'disconnected' }))

let connection

async function send (stream, chunk) {
  if (!stream.send(chunk)) {
    await new Promise((resolve) => stream.addEventListener('drain', resolve, { once: true }))
  }
}

async function readToEnd (stream) {
  const chunks = []
  for await (const chunk of stream) chunks.push(plain(chunk))
  return base64(chunks)
}

const jobs = {
  async dial ({ address }) {
    connection = await node.dial(multiaddr(address))
    return {}
  },
  async open ({ protocols, send: content }) {
    const stream = await connection.newStream(protocols)
    await send(stream, bytes(content))
    const [received] = await Promise.all([readToEnd(stream), stream.close()])
    return { protocol: stream.protocol, received }
  },
  async push ({ protocol, bytes: count }) {
    const stream = await connection.newStream(protocol)
    const block = new Uint8Array(65_507)
    for (let left = count; left > 0; left -= block.length) {
      await send(stream, block.subarray(0, Math.min(left, block.length)))
    }
    const [received] = await Promise.all([readToEnd(stream), stream.close()])
    return { received }
  },
  async pull ({ protocol, bytes: count }) {
    const stream = await connection.newStream(protocol)
    let read = 0
    for await (const chunk of stream) {
      read += chunk.byteLength
      if (read >= count) break
    }
    stream.abort(new Error('enough'))
    return { read }
  },
  async 'hang up' () {
    await Promise.all(node.getConnections().map((one) => one.close()))
    return {}
  }
}

say({ event: 'ready', address: node.getMultiaddrs()[0].toString() })
for await (const line of createInterface({ input: process.stdin })) {
  const { id, do: what, ...job } = JSON.parse(line)
  jobs[what](job).then(
    (result) => say({ id, ...result }),
    (error) => say({ id, error: `${error.name}: ${error.message}` })
  )
}
await node.stop()
