"""`pounce.run()` and `python -m pounce`: the executable, run from Python."""

import os
import subprocess
import sys
import tempfile
import unittest


class Package(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.executable = os.path.join(directory.name, "pounce")
        self.write('echo "$POUNCE_PYTHON" "$@"; exit 4')

    def write(self, script: str) -> None:
        with open(self.executable, "w") as file:
            file.write(f"#!/bin/sh\n{script}\n")
        os.chmod(self.executable, 0o755)

    def python(self, *arguments: str, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "POUNCE_BIN": self.executable, **env},
            capture_output=True,
            text=True,
            timeout=30,
        )

    def test_run_passes_the_settings_and_the_exit_code_on(self):
        done = self.python("-c", "import pounce; pounce.run('app:app', pounce.ServerConfig(port=9000))")
        self.assertEqual((done.returncode, done.stderr), (4, ""))
        self.assertEqual(done.stdout, f"{sys.executable} app:app --port=9000\n")

    def test_run_takes_settings_as_keywords(self):
        done = self.python("-c", "import pounce; pounce.run('app:app', workers=2)")
        self.assertIn("app:app --workers=2", done.stdout)

    def test_run_refuses_what_it_cannot_serve(self):
        done = self.python("-c", "import pounce; pounce.run(object())")
        self.assertIn("run() takes the application as 'module:attribute'", done.stderr)
        done = self.python("-c", "import pounce; pounce.run('a:b', pounce.ServerConfig(), port=1)")
        self.assertIn("not both", done.stderr)
        self.assertEqual(done.stdout, "")

    def test_the_module_is_the_command(self):
        done = self.python("-m", "pounce", "--help", "x y")
        self.assertEqual((done.returncode, done.stdout), (4, f"{sys.executable} --help x y\n"))

    def test_another_interpreter_may_be_asked_for(self):
        done = self.python("-m", "pounce", POUNCE_PYTHON="/opt/python")
        self.assertEqual(done.stdout, "/opt/python\n")

    def test_an_executable_that_is_not_there(self):
        done = self.python("-m", "pounce", POUNCE_BIN="/nowhere/pounce")
        self.assertIn("$POUNCE_BIN is '/nowhere/pounce', which is not an executable file", done.stderr)

    def test_signals_are_handed_on(self):
        self.write('trap "exit 7" TERM; echo ready; while :; do sleep 0.05; done')
        code = "import pounce; pounce.run('app:app')"
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "POUNCE_BIN": self.executable},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        with process:
            self.assertEqual(process.stdout.readline(), b"ready\n")
            process.terminate()
            self.assertEqual(process.wait(30), 7)

    def test_a_worker_is_not_started_by_hand(self):
        done = self.python("-m", "pounce._worker")
        self.assertEqual(done.returncode, 1)
        self.assertIn("pounce._worker is started by the pounce command", done.stderr)
