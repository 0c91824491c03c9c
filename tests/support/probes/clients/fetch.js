// Fetches each URL with node:http2, through the proxy if a variable names one: prints the protocol,
// the status and the body. Node 20 takes no proxy from variables by itself.
const http2 = require("http2"), http = require("http"), tls = require("tls");
const urls = process.argv.slice(2).map(one => new URL(one));
const proxy = process.env.HTTPS_PROXY && new URL(process.env.HTTPS_PROXY);

function tunnel(host) {
  const secret = Buffer.from(proxy.username + ":" + proxy.password).toString("base64");
  const headers = {"Proxy-Authorization": "Basic " + secret};
  return new Promise((resolve, reject) => http
    .request({host: proxy.hostname, port: proxy.port, method: "CONNECT", path: host, headers})
    .on("connect", (_, socket) => resolve(socket)).on("error", reject).end());
}

(async () => {
  const {hostname, host, origin} = urls[0];
  const socket = proxy && await tunnel(host);
  const settings = {servername: hostname, ALPNProtocols: ["h2"]};
  const session = http2.connect(origin, socket
    ? {createConnection: () => tls.connect({socket, ...settings})} : settings);
  session.on("error", error => { console.log(error.code, error.message); process.exit(1); });
  for (const {pathname} of urls) {
    const stream = session.request({":path": pathname});
    let status, body = "";
    stream.on("response", fields => status = fields[":status"]);
    stream.setEncoding("utf8").on("data", data => body += data);
    await new Promise(resolve => stream.on("end", resolve));
    console.log(session.alpnProtocol, status, body);
  }
  session.close();
})();
