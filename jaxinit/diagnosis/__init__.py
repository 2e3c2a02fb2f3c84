"""The signal in a function before it is trained, and what is wrong with it.

`jaxinit.diagnose` measures, `jaxinit.audit` judges. The room is not named after the
function, which a module of that name would hide.
"""

# Names listed here are public; modules with an underscore are the package's own.
from jaxinit.diagnosis._audit import Audit as Audit
from jaxinit.diagnosis._diagnose import Options as Options
from jaxinit.diagnosis._finding import Finding as Finding
from jaxinit.diagnosis._numbers import Growth as Growth
from jaxinit.diagnosis._numbers import Label as Label
from jaxinit.diagnosis._numbers import PointLabel as PointLabel
from jaxinit.diagnosis._numbers import PointRow as PointRow
from jaxinit.diagnosis._numbers import Row as Row
from jaxinit.diagnosis._report import Report as Report
from jaxinit.diagnosis._spectra import Spectra as Spectra

__all__ = [
    "Audit",
    "Finding",
    "Growth",
    "Label",
    "Options",
    "PointLabel",
    "PointRow",
    "Report",
    "Row",
    "Spectra",
]
