"""Every parser of a file that somebody else may have written, as a target for fuzzing: ``tools/fuzz.py``, tests."""

from tools.fuzz_targets import models, packed_files, pictures, protocols, sealed, settings_files, sources
from tools.fuzz_targets.target import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (pictures, packed_files, sources, protocols, settings_files, models, sealed)
    for target in module.TARGETS
}
