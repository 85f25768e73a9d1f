"""Apache Kafka's jars, fetched once by Maven into ${HOLDFAST_KAFKA_CACHE:-~/.cache/holdfast}/kafka-…

`python -m tests.integration.stream.jars` fetches them before any test needs them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KAFKA = "4.3.1"  # of 4.4.0 not all parts are published
LOG4J = "2.25.3"  # Kafka's own dependencies bring no logging backend
PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
FETCH_TIMEOUT_S = 300

POM = f"""\
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>holdfast</groupId>
  <artifactId>test-broker</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{KAFKA}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>{LOG4J}</version>
    </dependency>
  </dependencies>
</project>
"""


def jars_folder() -> Path:
    """Where the jars are, once they are there; a folder with this name is whole."""
    cache = Path(os.environ.get("HOLDFAST_KAFKA_CACHE") or Path.home() / ".cache/holdfast")
    return cache / f"kafka-{KAFKA}-log4j-{LOG4J}"


def missing() -> str:
    """What is not installed that a broker needs; empty when nothing is."""
    needed = ("java",) if jars_folder().exists() else ("java", "mvn")
    return ", ".join(name for name in needed if shutil.which(name) is None)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time is within; the others wait."""
    with path.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fetched() -> Path:
    """The folder with the jars, after it was made if need be; any number of processes may ask at once.

    Raises RuntimeError with Maven's words when they cannot be had.
    """
    folder = jars_folder()
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as work:
                _fetch(Path(work))
                (Path(work) / "jars").rename(folder)
    return folder


def _fetch(work: Path) -> None:
    (work / "pom.xml").write_text(POM)
    goal = [f"{PLUGIN}:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={work / 'jars'}"]
    command = ["mvn", "--batch-mode", "--quiet", "-Dstyle.color=never", *goal]
    try:
        ran = subprocess.run(
            command,
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=FETCH_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"Maven had not fetched Kafka's jars after {FETCH_TIMEOUT_S} s") from error
    if ran.returncode:
        raise RuntimeError(f"Maven did not fetch Kafka's jars: {ran.stdout[-2000:]}")


if __name__ == "__main__":
    print(fetched())
