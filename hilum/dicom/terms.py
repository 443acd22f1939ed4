"""Values of code strings that are words of the standard, and so name no patient.

What stands in a code string is whatever the sender wrote there: a name fits into 16 characters as
well as a body part. Only these may be repeated in a text; for checking a header they have no say.
"""

from __future__ import annotations

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Modality (0008,0060), PS3.3 C.7.3.1.1.1, of images and what comes with them; DR is not in it, but
# in the field.
MODALITIES: Final = _words("""
    AR BDUS BI BMD CFM CR CT DG DMS DOC DR DX ECG EPS ES FID GM HC HD IO IVOCT IVUS KER KO LEN LS
    MG MR NM OAM OCT OP OPM OPT OPTENF OPV OSS OT PLAN PR PT PX REG RESP RF RG RTDOSE RTIMAGE
    RTPLAN RTRECORD RTSTRUCT RWV SC SEG SM SMR SR SRF TG US VA XA XC
""")
# View Position (0018,5101), PS3.3 C.8.1.1.1, and views of breasts; the last line only in the field.
VIEWS: Final = _words("""
    AP PA LL RL RLD LLD RLO LLO
    CC FB LM LMO ML MLO SIO XCC XCCL XCCM
    AXIAL DECUBITUS LAT LATERAL LORDOTIC OBLIQUE
""")
# Body Part Examined (0018,0015), PS3.16 annex L, as far as films have to do with it; the last line
# only in the field.
BODY_PARTS: Final = _words("""
    ABDOMEN ABDOMENPELVIS ANKLE AORTA ARM BACK BLADDER BRAIN BREAST BRONCHUS CALCANEUS CALF CHEST
    CHESTABDOMEN CHESTABDPELVIS CLAVICLE COCCYX COLON CSPINE CTSPINE DUODENUM EAR ELBOW ESOPHAGUS
    EXTREMITY EYE FACE FEMUR FINGER FOOT FOREARM FOREFOOT GALLBLADDER HAND HEAD HEADNECK HEART
    HINDFOOT HIP HUMERUS IAC ILIUM JAW KIDNEY KNEE LARYNX LEG LIVER LSPINE LSSPINE LUNG MAXILLA
    MEDIASTINUM MOUTH NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE ORBIT PANCREAS PATELLA
    PELVIS PHARYNX RIB SCAPULA SHOULDER SKULL SPINE SSPINE STERNUM STOMACH THIGH THUMB TLSPINE TMJ
    TOE TRACHEA TSPINE WHOLEBODY WRIST ZYGOMA
    RIBS THORAX
""")
