"""Certificate profiles and facts about TPM makers' certificates: data, never a private key."""
