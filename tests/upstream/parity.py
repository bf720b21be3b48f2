"""What a test does for our classes beside what it does for stock Gemma 3; where ours is worse, the run fails.

A pass that only stock Gemma 3 has says that we broke something; a skip that only we have hides the same.
"""

from collections import Counter, defaultdict

import pytest
from adopt import OURS

CONTROLS = {
    "TheWorldModelTest": "Gemma3Vision2TextModelTest",
    "TheWorldGatedModelTest": "Gemma3Vision2TextModelTest",
    "TheWorldProcessorTest": "Gemma3ControlProcessorTest",
    "TheWorldBesideImageProcessorTest": "Gemma3ControlProcessorTest",
}
"""Our test class to the control's."""


class Parity:
    """Pytest plugin: collects outcomes, compares at the end whatever ran on both sides."""

    def __init__(self) -> None:
        self.outcomes: defaultdict[str, dict[str, str]] = defaultdict(dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        _, _, name = report.nodeid.partition("::")
        group, _, test = name.partition("::")
        if (context := getattr(report, "context", None)) is not None:  # a subtest, of a class or of a setting
            test += f" [{context.msg or ''} {context.kwargs or ''}]"
            for stock, ours in OURS.items():
                test = test.replace(ours, stock)
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[group][test] = f"x{report.outcome}" if hasattr(report, "wasxfail") else report.outcome

    def differences(self) -> list[str]:
        """One line for each test in which our classes do worse."""
        return sorted(
            f"{ours}::{test}: {outcome}, Gemma 3 {control}"
            for ours, name in CONTROLS.items()
            for test, outcome in self.outcomes.get(ours, {}).items()
            if outcome not in ("passed", control := self.outcomes.get(name, {}).get(test, outcome))
        )

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("beside stock Gemma 3")
        for group in sorted({*CONTROLS, *CONTROLS.values()} & self.outcomes.keys()):
            # Subtests would say how many parameters a class has.
            counts = Counter(outcome for test, outcome in self.outcomes[group].items() if " [" not in test)
            terminalreporter.line(f"{group}: " + ", ".join(f"{counts[key]} {key}" for key in sorted(counts)))
        for line in self.differences() or ["nothing is worse"]:
            terminalreporter.line(line)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.differences():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
