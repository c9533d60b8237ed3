// A front end in a real browser, served from another origin: preflights, every method, and the event
// stream read as it comes. Called by browser.sh with API, KEY, CHROMIUM and PLAYWRIGHT set.
import assert from 'node:assert/strict';
import http from 'node:http';

const { API, KEY, CHROMIUM, PLAYWRIGHT } = process.env;
const { default: playwright } = await import(PLAYWRIGHT);

const origin = http.createServer((request, response) => {
  response.setHeader('Content-Type', 'text/html');
  response.end('<!doctype html><title>elsewhere</title>');
});
await new Promise((done) => origin.listen(0, '127.0.0.1', done));

const browser = await playwright.chromium.launch({
  executablePath: CHROMIUM,
  args: ['--no-sandbox', '--disable-dev-shm-usage'],
});
try {
  const page = await browser.newPage();
  const complaints = [];
  page.on('pageerror', (error) => complaints.push(String(error)));
  await page.goto(`http://localhost:${origin.address().port}/`);

  const seen = await page.evaluate(frontEnd, { api: API, key: KEY });
  assert.deepEqual(seen.statuses, { post: 201, patch: 200, put: 200, delete: 204, wrong: 401, nosuch: 404 });
  assert.equal(seen.wrongText, 'Unauthorized: Invalid API key');
  assert.ok(seen.types.indexOf('initial') === 0, `first ${seen.types}`);
  for (const type of ['create', 'update', 'delete']) {
    assert.ok(seen.types.includes(type), `${type} is not among ${seen.types}`);
  }
  assert.ok(seen.types.indexOf('create') < seen.types.indexOf('update'));

  // The documentation page works with nothing from another host.
  const foreign = [];
  page.on('request', (request) => {
    const url = new URL(request.url());
    if (url.protocol !== 'data:' && url.protocol !== 'blob:' && url.origin !== new URL(API).origin) {
      foreign.push(request.url());
    }
  });
  await page.goto(`${API}/docs`);
  await page.getByText('/instances/{id}').first().waitFor({ timeout: 60000 });
  assert.deepEqual(foreign, []);
  assert.deepEqual(complaints, []);
} finally {
  await browser.close();
  origin.close();
}
console.log('a browser at another origin can do everything');

// Runs in the page.
async function frontEnd({ api, key }) {
  const headers = { 'X-API-Key': key, 'Content-Type': 'application/json' };
  const types = [];
  const stop = new AbortController();
  const stream = await fetch(`${api}/events`, {
    headers: { 'X-API-Key': key, 'Cache-Control': 'no-cache' },
    signal: stop.signal,
  });
  const waiters = [];
  (async () => {
    const reader = stream.body.getReader();
    const decoder = new TextDecoder();
    let buffer = '';
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      buffer += decoder.decode(value, { stream: true });
      const blocks = buffer.split('\n\n');
      buffer = blocks.pop();
      for (const block of blocks) {
        const event = block.match(/^event: (.+)$/m);
        const data = block.match(/^data: (.+)$/m);
        if (event && data) types.push(JSON.parse(data[1]).type);
      }
      waiters.forEach((waiter) => waiter());
    }
  })().catch(() => {});
  const until = (type) =>
    new Promise((done, fail) => {
      const look = () => types.includes(type) && done();
      waiters.push(look);
      look();
      setTimeout(() => fail(new Error(`no ${type} among ${types}`)), 30000);
    });

  const call = (method, path, body, more) =>
    fetch(api + path, { method, headers: { ...headers, ...more }, body: body && JSON.stringify(body) });
  const url = 'server://127.0.0.1:0/127.0.0.1:0?mode=1';
  await until('initial');
  const post = await call('POST', '/instances', { url });
  const { id } = await post.json();
  await until('create');
  await until('update');
  const patch = await call('PATCH', `/instances/${id}`, { alias: 'from a browser' });
  const put = await call('PUT', `/instances/${id}`, { url: `${url}&max=7` });
  const gone = await call('DELETE', `/instances/${id}`);
  await until('delete');
  const wrong = await call('GET', '/info', undefined, { 'X-API-Key': 'wrong' });
  const nosuch = await call('GET', '/nosuch');
  stop.abort();
  return {
    types,
    statuses: {
      post: post.status,
      patch: patch.status,
      put: put.status,
      delete: gone.status,
      wrong: wrong.status,
      nosuch: nosuch.status,
    },
    wrongText: (await wrong.json()).message,
  };
}
