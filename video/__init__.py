"""The film engine: shots + transitions + sound -> file.

The way of a film, in order:

1. `sources`: stills, batches, folders and video files as uint8 pictures, read lazily. A video file
   is looked at by `scan` (when its frames show), read by `decode`, its frames turned into pictures
   by `colour`. `sound`: tracks in memory, in files (`file_sound`) and their mix (`limiter`).
2. `timeline`: `Shot`, `Transition` and `Timeline` are frozen data with exact rational times;
   `assemble` checks them and fills in defaults; `edits` crops and resizes films. `rational` turns
   23.976 into 24000/1001.
3. `render`: frame i of a film on demand: `framing` (fit, `camera`) makes one frame of one shot,
   `transitions` mixes two of them with an `easing`. All in 8 bit; what does not change is not made.
4. `encode`: frames and sound into a file by one of the `presets`; `wholefile`
   shows it when complete, `files` says what a disk refuses.

What the user should know (`notes`) is said on the way. Nothing here knows ComfyUI;
`nodes/runtime/lazy_video.py` makes a film a core VIDEO.
"""

from .assemble import assemble, make_transition
from .camera import MOVES, Move, View, camera_move
from .decode import open_video
from .easing import EASINGS
from .edits import cropped, resized
from .encode import REWRITABLE, encode, rewrite
from .errors import VideoError
from .file_sound import sound_of_file
from .files import whole_file
from .framing import FITS
from .notes import listening, say
from .presets import PRESETS, Preset, preset_named, with_quality, with_speed
from .rational import exact_rate, nearest, seconds
from .render import FilmSource, Renderer
from .sound import Samples, mix, sample_count, sound_format, sound_of_film
from .sources import (
    Pictures,
    TensorPictures,
    VideoFile,
    batch_of_tensor,
    pictures_from_tensor,
    pictures_in_folder,
)
from .timeline import CUT, Shot, Timeline, Transition
from .transitions import TRANSITIONS
from .wholefile import NameTaken

__all__ = [
    "CUT",
    "EASINGS",
    "FITS",
    "MOVES",
    "PRESETS",
    "REWRITABLE",
    "TRANSITIONS",
    "FilmSource",
    "Move",
    "NameTaken",
    "Pictures",
    "Preset",
    "Renderer",
    "Samples",
    "Shot",
    "TensorPictures",
    "Timeline",
    "Transition",
    "VideoError",
    "VideoFile",
    "View",
    "assemble",
    "batch_of_tensor",
    "camera_move",
    "cropped",
    "encode",
    "exact_rate",
    "listening",
    "make_transition",
    "mix",
    "nearest",
    "open_video",
    "pictures_from_tensor",
    "pictures_in_folder",
    "preset_named",
    "resized",
    "rewrite",
    "sample_count",
    "say",
    "seconds",
    "sound_format",
    "sound_of_file",
    "sound_of_film",
    "whole_file",
    "with_quality",
    "with_speed",
]
