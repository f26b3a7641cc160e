"""`drkit init` and `drkit calibrate`: make a repository ready, and the instrument trusted."""

from __future__ import annotations

from pathlib import Path

from drkit.cli import aim, console
from drkit.errors import UsageError
from drkit.report import numbers

TEMPLATES = Path(__file__).parent / "templates"
_PLACES = {
    "drkit.toml": Path("drkit.toml"),
    "other-zone.yaml": Path("experiments/other-zone.yaml"),
    "drkit.yml": Path(".github/workflows/drkit.yml"),
}
_IGNORED = (".drkit/", "reports/")


def init(directory: Path, *, as_json: bool) -> int:
    """Write each file that is not there yet."""
    if not directory.is_dir():
        raise UsageError(f"{directory} is not a directory", "make it first, or name another")
    written: list[str] = []
    kept: list[str] = []
    for template, place in _PLACES.items():
        path = directory / place
        try:
            fresh = _write(path, (TEMPLATES / template).read_text("utf-8"))
        except OSError as e:
            raise UsageError(
                f"cannot write {path}: {e.strerror}", "name a directory that you may write to: drkit init DIR"
            ) from None
        (written if fresh else kept).append(str(place))
    if as_json:
        console.out_json({"directory": str(directory.resolve()), "written": written, "kept": kept})
        return 0
    for place_ in written:
        console.out(f"wrote {place_}")
    for place_ in kept:
        console.out(f"kept {place_}, which was there")
    ignored = directory / ".gitignore"
    told = ignored.read_text("utf-8", errors="replace").split() if ignored.is_file() else []
    if unsaid := [word for word in _IGNORED if word not in told]:
        console.say(f"add to .gitignore: {' '.join(unsaid)}")
    console.say("next: drkit doctor, then drkit run other-zone")
    return 0


def _write(path: Path, text: str) -> bool:
    """Write a file that is not there yet; return whether it was written. Raises OSError."""
    if path.exists() or path.is_symlink():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    return True


def calibrate(trials: int, *, seed: int, as_json: bool) -> int:
    """Calibrate, store the certificate, return 0 if the instrument may be trusted, else 1."""
    from drkit import calibrate as calibrating
    from drkit import certificate as certificates
    from drkit.calibrate import Trial

    home = aim.here().home

    def progress(done: int, trial: Trial) -> None:
        told = f"MISSED: {trial.remark}" if trial.remark else "covered"
        console.say(f"{done:4} of {trials}  {trial.kind}, {trial.truth_s:.3f} s: {told}")

    certificate = calibrating.calibrate(trials, progress=progress, seed=seed)
    path = home / "calibration.json"
    certificates.save(certificate, path)
    if as_json:
        document = certificate.to_json()
        console.out_json(
            {**document, "holds": certificate.holds, "objections": certificate.objections, "path": str(path)}
        )
        return 0 if certificate.holds else 1
    rows = [
        (
            k.kind,
            str(k.trials),
            str(k.covered),
            str(k.disturbed),
            f"{k.every_s * 1000:g} ms",
            numbers.seconds(k.allowance_s) if k.allowance_s else "–",
            _periods(k.mean_width_periods),
            "–" if k.mean_width_s is None else numbers.seconds(k.mean_width_s),
            "–" if k.rows_exact is None else str(k.rows_exact),
        )
        for k in certificate.kinds
    ]
    console.out(
        console.table(
            ("kind", "trials", "covered", "disturbed", "p", "shows within", "width in p", "width", "rows exact"), rows
        )
    )
    console.out(
        f"\ncovered {numbers.percent(certificate.coverage)} of {certificate.trials} known outages; mean width"
        f" {_periods(certificate.mean_width_periods)}; lost rows exact in {certificate.losses_exact} of"
        f" {certificate.losses}; took {numbers.seconds(certificate.took_s)}"
    )
    for objection in certificate.objections:
        console.out(f"NOT TO BE TRUSTED: {objection}")
    if certificate.holds:
        console.out("the instrument may be trusted on this machine; every run from now on carries this certificate")
    console.out(f"certificate: {path}")
    return 0 if certificate.holds else 1


def _periods(width: float | None) -> str:
    return "–" if width is None else f"{width:.2f} p"
