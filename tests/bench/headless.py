"""A headless chromium at the end of a pipe, for pictures of a page and questions to it. No network, no ports."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
FLAGS += ["--disable-background-networking", "--no-first-run", "--remote-debugging-pipe"]


class Browser:
    """One page in one browser, by the DevTools protocol: messages that end in a zero byte, on descriptors 3 and 4."""

    def __init__(self, profile: Path) -> None:
        to_read, self._commands = os.pipe()
        self._replies, to_write = os.pipe()
        shell = f'exec "$0" "$@" 3</dev/fd/{to_read} 4>/dev/fd/{to_write}'
        self._process = subprocess.Popen(
            ["sh", "-c", shell, CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_read, to_write),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._buffer, self._number, self._session = b"", 0, None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self("Page.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._commands)
        os.close(self._replies)

    def __call__(self, method: str, **arguments: object) -> dict:
        """The answer to a command."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": arguments}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        return self._until(lambda reply: reply.get("id") == self._number)["result"]

    def _until(self, wanted) -> dict:
        while True:
            while b"\0" not in self._buffer:
                part = os.read(self._replies, 2**16)
                assert part, "the browser has ended"
                self._buffer += part
            reply, _, self._buffer = self._buffer.partition(b"\0")
            content = json.loads(reply)
            if wanted(content):
                assert "error" not in content, content
                return content

    def open(self, page: Path, width: int, height: int, theme: str) -> None:
        """Show a page in a window of this size, in the theme `light` or `dark`."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self("Page.navigate", url=page.absolute().as_uri())
        self._until(lambda reply: reply.get("method") == "Page.loadEventFired")

    def ask(self, expression: str) -> object:
        """The value of a JavaScript expression on the page."""
        return self("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def shoot(self, file: Path, whole: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        data = self("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole))["data"]
        file.write_bytes(base64.b64decode(data))

    def _clip(self, whole: bool) -> dict:
        if not whole:
            return {}
        size = self("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}
