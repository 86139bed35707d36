"""The field's known mistakes, each with its source, and the tests that keep this project from making it.

A row is a mistake in a few words, where it happened or is described, and tests as `file::name` under tests/ (any name
of a test function or a method; parametrized ones without their parameters). A test that is renamed or removed fails
this file; so does a row without tests.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Final

import pytest

TESTS = Path(__file__).resolve().parent.parent
TPM, WEB, CREDENTIALS, EDGE = (
    "unit/tpm/test_",
    "unit/web/test_",
    "unit/credentials/test_",
    "unit/attestd_edge/test_edge_",
)
ENVOY = "unit/attestd_edge/envoy/test_envoy_"
ATTACK = "attacks/test_"
RUNTIME = "unit/appraisal/test_runtime"
ISSUANCE = "unit/issuance/test_"
EVIDENCE = "attacks/test_evidence.py"

COVERED: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    # ---- Endorsement
    ("EK certificates with an empty subject and a critical SAN", "bloomberg/spire-tpm-plugin#19"): (
        f"{TPM}endorsement.py::test_the_tpms_identity_is_read",
        f"{TPM}vouching.py::test_a_critical_alternative_name_is_understood_in_an_ek_certificate_only",
        f"{ATTACK}endorsement.py::test_a_critical_extension_that_is_not_understood",
    ),
    ("the EK purpose must be there", "TCG EK Credential Profile 2.5, 3.2"): (
        f"{TPM}endorsement.py::test_the_purpose_must_be_the_eks",
        f"{TPM}endorsement.py::test_the_mark_stands_for_what_is_absent_and_for_nothing_else",
        "vectors/test_shared_appraisals.py::test_each_certificate_gets_its_verdict",
        f"{TPM}claims.py::test_an_empty_list_of_purposes_is_never_any_purpose",
    ),
    ("an issuer's name and one signature are no chain", "RFC 5280, 6.1"): (
        f"{TPM}vouching.py::test_every_certificate_below_the_root_must_be_valid_now",
        f"{TPM}vouching.py::test_an_issuer_must_be_a_ca",
        f"{TPM}vouching.py::test_an_issuer_must_be_allowed_to_sign_certificates",
        f"{TPM}vouching.py::test_path_lengths_hold",
        f"{TPM}chain.py::test_a_root_of_the_same_name_and_another_key_is_not_trusted",
        f"{ATTACK}endorsement.py::test_a_chain_that_brings_its_own_root",
        f"{ATTACK}endorsement.py::test_a_tpm_s_certificate_certifies_no_other_tpm",
        f"{ATTACK}endorsement.py::test_a_certificate_outside_its_own_dates",
    ),
    ("intermediates from the request, from NV or from the store", "tpm2-tools"): (
        f"{TPM}chain.py::test_intermediates_come_with_the_request_or_from_the_store",
        f"{TPM}chain.py::test_some_intermediates_from_the_request_and_some_from_the_store",
        f"{TPM}chain.py::test_the_order_of_intermediates_and_strangers_among_them_do_not_matter",
        "unit/attestd_agent/test_agent_endorsement.py::test_issuers_certificates_go_on_over_indices",
    ),
    ("whoever sends a certificate chooses what the service fetches", "RFC 5280, 4.2.2.1; CWE-918"): (
        f"{ISSUANCE}trust.py::test_nothing_is_fetched_unless_settings_name_hosts",
        f"{ISSUANCE}trust.py::test_a_fetched_root_is_no_root",
        f"{ISSUANCE}issuers.py::test_nothing_is_fetched_unless_a_setting_names_hosts",
        f"{ISSUANCE}issuers.py::test_a_name_that_leads_inside_is_not_asked",
        f"{ISSUANCE}issuers.py::test_a_redirect_elsewhere_or_in_circles_ends",
        f"{ISSUANCE}issuers.py::test_an_answer_that_drips_is_cut_off",
        f"{ISSUANCE}issuers.py::test_requests_of_a_minute_are_bounded",
        f"{ISSUANCE}issuers.py::test_a_failure_is_kept_for_ten_minutes",
    ),
    ("chips that outlive their maker's root", "RFC 5280, 6.1.1"): (
        f"{TPM}vouching.py::test_a_trusted_root_that_is_over_still_vouches_for_what_it_signed_in_its_time",
        f"{TPM}vouching.py::test_a_root_that_is_over_vouches_for_nothing_else",
        "vectors/test_shared_appraisals.py::test_a_nuvoton_chip_that_outlives_its_root",
    ),
    ("certificates signed over SHA-1", "RFC 6194; Leurent and Peyrin, SHA-1 is a Shambles, 2020"): (
        f"{TPM}vouching.py::test_signatures_over_sha1_count_if_they_are_old_and_asked_for",
        f"{TPM}vouching.py::test_signatures_over_sha1_from_when_collisions_could_be_made_never_count",
        "vectors/test_shared_endorsements.py::test_chains_over_sha1_are_refused_by_default",
    ),
    ("a list of known makers becomes a list of trusted ones", "docs/adr/0026"): (
        f"{TPM}known_makers.py::test_nothing_is_trusted_for_being_in_the_manifest",
        "unit/cli/test_trust_import.py::test_what_is_there_is_shown_and_nothing_is_trusted",
        "unit/cli/test_trust_import.py::test_without_a_choice_nothing_is_trusted",
        "unit/cli/test_trust_import.py::test_roots_become_anchors_and_the_rest_helps",
    ),
    ("what comes out of an archive has no bounds", "CWE-409"): (
        f"{TPM}cabinets.py::test_what_comes_out_is_bounded",
        f"{TPM}cabinets.py::test_one_lie_in_a_cabinet",
    ),
    ("padding after the certificate in NV", "nsacyber/HIRS#23, tpm2-tools#3474"): (
        f"{TPM}ekcert.py::test_padding_is_cut",
        f"{TPM}endorsement.py::test_padding_is_cut_and_recorded",
    ),
    ("certificates that are not strict DER", "keylime#944, keylime#1775"): (
        f"{TPM}ekcert.py::test_a_named_departure_is_read_and_recorded",
        f"{TPM}ekcert.py::test_a_departure_without_a_name_is_refused",
        "vectors/test_shared_endorsements.py::test_each_certificate_is_read_as_the_manifest_says",
    ),
    ("chains of on-die CAs", "keylime#1552"): (
        "vectors/test_shared_endorsements.py::test_each_chain_gets_the_manifests_verdict",
    ),
    ("signatures over re-encoded octets", "keylime#944"): (f"{TPM}vouching.py::test_every_signed_octet_counts",),
    ("the certificate is for another key, or another template", "TCG EK Credential Profile 2.5, annex B"): (
        f"{TPM}endorsement.py::test_the_certificate_must_be_for_this_very_key",
        f"{TPM}ektemplates.py::test_one_lie_in_each_template",
        f"{ATTACK}endorsement.py::test_a_stolen_certificate_for_the_thief_s_own_key",
    ),
    ("an EK without a certificate", "TCG EK Credential Profile 2.5, 2.2"): (
        f"{ATTACK}endorsement.py::test_the_inventory_s_hash_is_of_exactly_this_key",
        "unit/issuance/test_enrollment.py::test_without_certificate_and_inventory_nobody_vouches",
    ),
    ("a genuine TPM that is not yours", "Parno, Bootstrapping Trust in a Trusted Platform, 2008"): (
        f"{ATTACK}endorsement.py::test_a_cuckoo_is_a_device_of_its_own",
        f"{ATTACK}endorsement.py::test_a_maker_s_word_alone_gives_no_credential",
        f"{ATTACK}endorsement.py::test_a_relay_to_the_victim_s_tpm_activates_nothing_for_another_key",
        f"{ATTACK}endorsement.py::test_one_chip_with_two_endorsement_keys_is_approved_twice",
    ),
    ("an id or its keys taken over from another TPM", "CVE-2025-13609"): (
        f"{ATTACK}endorsement.py::test_registering_again_from_another_tpm_changes_no_keys",
        f"{ATTACK}endorsement.py::test_an_id_of_the_inventory_belongs_to_one_ek",
        f"{ATTACK}endorsement.py::test_one_tpm_does_not_replace_another_device_s",
        f"{ATTACK}endorsement.py::test_a_replaced_tpm_does_not_come_back_through_inventory_or_replacement",
    ),
    ("moduli of a known-weak generator", "CVE-2017-15361"): (
        f"{TPM}endorsement.py::test_a_key_with_the_roca_fingerprint_is_refused",
        f"{TPM}endorsement.py::test_a_key_that_differs_from_the_fingerprint_modulo_one_prime_is_not_refused",
        f"{TPM}vouching.py::test_an_issuer_key_that_can_be_factored_is_refused",
        "vectors/test_shared_endorsements.py::test_no_known_ca_has_a_key_that_can_be_factored",
    ),
    ("firmware with a known hole", "CVE-2017-15361, CVE-2019-16863, CVE-2020-25082"): (
        f"{TPM}advisories.py::test_what_is_said_of_real_chips",
        f"{TPM}firmware.py::test_a_version_that_may_be_obfuscated_is_not_believed",
        f"{ISSUANCE}chips.py::test_an_advisory_is_a_warning_and_a_fact",
        f"{ISSUANCE}chips.py::test_a_new_advisory_quarantines_at_the_next_attestation",
        "vectors/test_shared_appraisals.py::test_chips_with_advisories",
    ),
    ("an identity key's certificate taken for proof", "TCG TPM 2.0 Keys for Device Identity, 5 and 7"): (
        f"{TPM}identity.py::test_one_lie_in_a_certificate",
        f"{TPM}identity.py::test_a_public_area_that_claims_more_than_the_key_is",
        f"{ATTACK}identity.py::test_an_attestation_key_that_nobody_vouches_for",
        f"{ATTACK}identity.py::test_a_stranger_with_the_victim_s_certificate",
        f"{ATTACK}identity.py::test_a_key_of_the_owner_s_hierarchy",
        f"{ATTACK}identity.py::test_an_ek_certificate_is_no_identity_key_s_and_the_other_way_round",
        f"{ATTACK}identity.py::test_one_tpm_by_both_ways_is_two_devices",
        "unit/attestd_agent/test_agent_identity.py::test_a_key_of_the_owner_s_is_not_taken",
    ),
    ("nothing to verify against passes", "pypi/warehouse"): (
        f"{ATTACK}endorsement.py::test_an_empty_trust_store_trusts_nobody",
        f"{CREDENTIALS}x509.py::test_without_a_root_nothing_is_trusted",
        f"{CREDENTIALS}tokens.py::test_without_keys_nothing_is_genuine",
    ),
    # ---- Activation and certification
    ("the AK's Name is the client's word", "TPM 2.0 Library, Part 1, 24"): (
        f"{TPM}makecred.py::test_another_name_recovers_nothing",
        f"{ATTACK}enrollment.py::test_an_attestation_key_of_another_tpm",
    ),
    ("an AK that signs what the TPM never said", "TPM 2.0 Library, Part 1, 31.4"): (
        f"{TPM}activation.py::test_one_lie_in_an_ecdsa_key",
        f"{ATTACK}enrollment.py::test_an_attestation_key_that_can_lie",
        f"{ATTACK}enrollment.py::test_another_attestation_key_after_begin",
    ),
    ("a credential key that can leave its TPM", "TPM 2.0 Library, Part 2, 8.3"): (
        f"{TPM}attest.py::test_one_lie_in_a_credential_key",
        f"{ATTACK}enrollment.py::test_a_credential_key_that_can_leave_its_tpm",
    ),
    ("a key substituted after its certification", "draft-ietf-acme-device-attest"): (
        f"{TPM}attest.py::test_another_public_area_than_the_certified_one",
        f"{ATTACK}enrollment.py::test_a_key_put_in_the_place_of_the_certified_one",
        f"{ATTACK}enrollment.py::test_re_keying_with_a_key_of_another_tpm",
        f"{ATTACK}enrollment.py::test_re_keying_signed_by_the_new_key",
    ),
    ("magic, type, Name, extraData or trailing octets unchecked", "TPM 2.0 Library, Part 2, 10.12"): (
        f"{TPM}attest.py::test_one_lie_in_a_certification",
        f"{TPM}statements.py::test_statements_with_more_are_malformed",
        f"{ATTACK}enrollment.py::test_a_certification_that_lies",
        "vectors/test_shared_quotes.py::test_a_certify_creation_is_no_certification",
    ),
    ("a secret that serves twice, or elsewhere", "docs/protocol.md, 1"): (
        f"{ATTACK}enrollment.py::test_another_challenge_s_secret",
        f"{ATTACK}enrollment.py::test_another_device_s_challenge",
        f"{ATTACK}enrollment.py::test_a_thief_of_the_answer_learns_nothing_more",
        f"{ATTACK}enrollment.py::test_an_old_challenge_does_not_undo_a_newer_enrollment",
        f"{ATTACK}enrollment.py::test_a_challenge_ends_with_its_time",
        "unit/registry/test_spends.py::test_of_processes_one_wins",
    ),
    ("evidence swapped between enrollments", "docs/protocol.md, 1"): (
        f"{ATTACK}enrollment.py::test_evidence_swapped_between_two_devices",
        f"{ATTACK}enrollment.py::test_evidence_swapped_between_two_enrollments_of_one_device",
        f"{ATTACK}enrollment.py::test_everything_that_evidence_is_bound_to",
    ),
    ("a challenge that somebody else made or touched", "docs/protocol.md, 1"): (
        f"{ATTACK}enrollment.py::test_a_challenge_of_another_instance",
        f"{ATTACK}enrollment.py::test_a_challenge_that_was_touched",
    ),
    # ---- Quote
    ("PCR values that the quote does not cover", "CVE-2022-0317"): (
        f"{ATTACK}quote.py::test_values_that_the_quote_does_not_cover",
        f"{TPM}attest.py::test_octets_moved_between_neighbours_hash_alike_and_are_refused",
        f"{EVIDENCE}::test_a_value_that_a_log_explains_and_no_quote_covers",
    ),
    ("magic, type, nonce, selection, bank or digest unchecked", "TPM 2.0 Library, Part 2, 10.12"): (
        f"{TPM}attest.py::test_one_lie_in_a_quote",
        f"{ATTACK}quote.py::test_a_quote_that_lies",
        f"{ATTACK}quote.py::test_everything_that_a_quote_is_bound_to",
        f"{ATTACK}quote.py::test_a_quote_is_good_once",
    ),
    ("a good machine quotes for a bad one", "Parno, 2008"): (
        f"{ATTACK}quote.py::test_a_good_machine_s_quote_for_a_bad_one",
    ),
    ("SHA-1 banks as evidence", "NIST SP 800-131A"): (
        f"{TPM}attest.py::test_sha1_banks_are_evidence_only_where_the_policy_names_them",
        f"{ATTACK}quote.py::test_a_bank_that_settings_do_not_name_is_no_evidence",
        f"{EVIDENCE}::test_a_log_without_digests_for_the_quoted_bank",
    ),
    ("a restart count that decreases is taken for an attack", "TPM 2.0 Library, Part 2, 10.11"): (
        f"{ATTACK}quote.py::test_a_new_boot_is_recorded_and_is_no_attack",
        f"{ATTACK}quote.py::test_a_tpm_whose_counts_went_back_is_a_copy",
        f"{EVIDENCE}::test_a_copy_of_a_tpm_s_state_does_not_end_what_is_held",
    ),
    ("logs without bounds", "google/go-attestation"): (
        f"{ATTACK}quote.py::test_a_log_is_bounded",
        f"{TPM}eventlog.py::test_sizes_and_counts_beyond_all_bounds",
        f"{TPM}eventlog.py::test_no_more_events_than_bounded",
        f"{TPM}eventlog.py::test_hostile_logs_take_little_time_and_memory",
        f"{TPM}eventlog.py::test_a_log_cut_anywhere",
        f"{TPM}sipa.py::test_events_that_are_none",
        "vectors/test_shared_eventlogs.py::test_a_mutated_log_is_read_or_refused_by_name",
        "fuzz/test_targets.py::test_nothing_near_a_seed_is_a_find",
    ),
    ("unauthenticated log data is believed", "go-attestation, docs/event-log-disclosure.md"): (
        f"{ATTACK}quote.py::test_a_log_that_nobody_asked_for_affirms_nothing",
        f"{ATTACK}eventlog.py::test_an_event_s_type_is_a_word",
        f"{ATTACK}eventlog.py::test_data_that_hash_to_something_else",
        f"{ATTACK}eventlog.py::test_a_loader_s_name_is_a_word",
        f"{ATTACK}eventlog.py::test_a_file_s_name_is_a_word",
        f"{TPM}secureboot.py::test_a_second_set_of_variables_behind_the_first",
        f"{TPM}secureboot.py::test_one_unknown_measurement_and_nothing_of_pcr_7_is_believed",
        f"{TPM}bootloaders.py::test_a_loader_can_not_be_renamed_away",
        f"{TPM}bootloaders.py::test_a_command_line_can_not_lose_its_name",
        "vectors/test_shared_eventlogs.py::test_no_name_that_a_log_gives_to_a_digest_is_a_fact",
        f"{EVIDENCE}::test_an_event_s_type_opens_nothing",
    ),
    ("the pre-OS phase has no end", "PC Client Platform Firmware Profile, 2.3.2"): (
        f"{ATTACK}eventlog.py::test_a_separator_that_is_called_something_else",
        f"{ATTACK}eventlog.py::test_keys_of_ones_own_behind_the_separator",
        f"{TPM}secureboot.py::test_a_separator_is_known_by_its_digest",
        f"{TPM}secureboot.py::test_without_a_separator_nobody_knows_who_measured",
    ),
    ("EV_NO_ACTION extends, and PCR 0 always begins at zero", "tpm2_eventlog 5.4"): (
        f"{TPM}replay.py::test_what_extends_nothing_extends_nothing",
        f"{TPM}replay.py::test_pcr_0_begins_where_startup_came_from",
        f"{ATTACK}eventlog.py::test_startup_locality_that_is_a_lie",
        "vectors/test_tpm2_eventlog.py::test_the_two_agree_on_a_real_log_or_differ_for_a_known_reason",
    ),
    ("real logs break strict parsers", "go-attestation#157, #222, #235, #283"): (
        f"{ATTACK}eventlog.py::test_real_logs_that_break_strict_parsers",
        f"{TPM}secureboot.py::test_early_shims_log_more_than_they_measure",
        "vectors/test_shared_eventlogs.py::test_every_log_has_facts_without_doubts",
    ),
    ("a log that does not replay is used", "PC Client Platform Firmware Profile, 10"): (
        f"{ATTACK}eventlog.py::test_the_log_of_a_good_boot_for_a_bad_one",
        f"{ATTACK}eventlog.py::test_events_left_out",
        f"{TPM}replay.py::test_the_first_pcr_that_differs_is_named",
        f"{TPM}replay.py::test_the_last_event_that_still_fits",
        "unit/cli/test_appraise_eventlog.py::test_a_log_that_does_not_replay_is_refused",
        "vectors/test_shared_eventlogs.py::test_each_log_replays_to_the_values_that_came_with_it_or_is_refused",
        f"{ISSUANCE}appraising.py::test_a_log_that_does_not_replay_is_refused_and_quarantines_nobody",
        f"{EVIDENCE}::test_a_log_that_measures_into_ima_s_pcr_counts_with_that_pcr_alone",
    ),
    ("a default policy that accepts every state", "keylime#1932"): (
        f"{ATTACK}quote.py::test_without_reference_values_nothing_is_affirmed",
        "unit/appraisal/test_comparison.py::test_without_reference_values_software_is_never_affirmed",
        "unit/appraisal/test_comparison.py::test_a_pcr_that_was_not_quoted_is_refused_not_ignored",
        f"{EVIDENCE}::test_a_manifest_that_affirms_by_saying_nothing",
        f"{EVIDENCE}::test_a_withdrawn_manifest_affirms_nothing",
        "unit/appraisal/test_manifests.py::test_a_draft_may_be_empty_and_nothing_else",
    ),
    # ---- IMA
    ("entries appended to a list are believed", "IBM/ima-doc, event log format"): (
        f"{TPM}ima.py::test_entries_after_the_quoted_one_are_ignored_and_never_read",
        f"{TPM}ima.py::test_the_quote_may_be_of_any_entry",
        f"{TPM}ima.py::test_a_list_with_one_lie_proves_nothing",
        f"{RUNTIME}.py::test_what_follows_the_quoted_entry_is_not_judged",
        f"{RUNTIME}.py::test_a_list_that_the_quote_does_not_prove_is_not_judged",
        "unit/cli/appraise/test_appraise_ima.py::test_what_follows_the_proven_entry_decides_nothing",
        "vectors/test_shared_ima.py::test_a_real_list_reaches_the_pcr_of_its_report",
        f"{EVIDENCE}::test_entries_appended_before_they_are_extended",
    ),
    ("violations that extend their zeros, or are believed", "Linux, ima_queue.c"): (
        f"{TPM}ima.py::test_a_violation_extends_all_ones",
        f"{RUNTIME}.py::test_violations_are_counted_and_no_path_excuses_them",
        "vectors/test_shared_ima.py::test_every_list_gets_its_stated_values",
        f"{EVIDENCE}::test_a_violation_is_judged",
        f"{EVIDENCE}::test_a_violation_that_a_manifest_takes",
    ),
    ("resuming on another boot, or with the whole list", "rust-keylime#1077"): (
        f"{RUNTIME}.py::test_resuming_on_another_boot_by_another_policy_or_elsewhere",
        f"{RUNTIME}.py::test_a_whole_list_where_a_continuation_was_announced",
        f"{RUNTIME}.py::test_entries_left_out_between_two_attestations",
        f"{RUNTIME}.py::test_what_was_refused_stays_refused",
        f"{TPM}ima.py::test_a_whole_list_is_no_continuation",
        f"{EVIDENCE}::test_entries_of_before_a_reboot",
        f"{EVIDENCE}::test_a_list_that_begins_beyond_what_is_known",
        f"{EVIDENCE}::test_what_is_known_of_another_device",
    ),
    ("updates against one fixed list", "keylime#1515"): (
        f"{RUNTIME}.py::test_updates_overlap",
        f"{RUNTIME}.py::test_nothing_is_good_without_a_policy_or_by_an_empty_one",
        f"{ISSUANCE}appraising.py::test_versions_overlap_so_that_an_update_quarantines_nobody",
        f"{EVIDENCE}::test_an_overlap_ends_at_its_second",
    ),
    ("a list of another boot, or of another PCR", "Linux, ima_crypto.c and ima_policy.c"): (
        f"{RUNTIME}.py::test_the_list_is_of_the_boot_that_was_quoted",
        f"{TPM}imastate.py::test_one_pcr_that_differs",
        f"{TPM}ima.py::test_entries_for_other_pcrs_extend_those",
        f"{TPM}ima.py::test_a_pcr_of_zeros_proves_nothing",
        "vectors/test_shared_ima.py::test_an_entry_for_another_pcr_is_no_part_of_pcr_10",
    ),
    ("sizes and counts of a list, and patterns, without bounds", "CWE-770, CWE-1333"): (
        f"{TPM}ima.py::test_malformed_lists",
        f"{TPM}ima.py::test_malformed_lists_cost_no_more_memory_than_they_have",
        f"{TPM}ima.py::test_memory_does_not_grow_with_the_list",
        "unit/appraisal/test_paths.py::test_no_path_makes_patterns_slow",
        f"{RUNTIME}.py::test_refusals_told_are_bounded_and_printable",
        f"{RUNTIME}.py::test_keys_learned_in_one_boot_are_bounded",
    ),
    ("a file's signature of another kind, hash or keyring", "Linux, digsig_asymmetric.c"): (
        f"{TPM}imasignatures.py::test_one_kind_does_not_stand_for_the_other",
        f"{TPM}imasignatures.py::test_one_lie_in_a_signature",
        f"{TPM}imamodsig.py::test_a_certificate_that_comes_along_is_nobody_to_trust",
        f"{TPM}imamodsig.py::test_one_lie_in_an_appended_signature",
        f"{RUNTIME}.py::test_a_measured_key_counts_from_then_on_where_a_rule_says_so",
    ),
    ("what is known of a log is anybody's word", "docs/evidence.md"): (
        f"{EVIDENCE}::test_an_event_log_that_another_device_sent",
        f"{EVIDENCE}::test_a_list_that_begins_beyond_what_is_known",
        f"{ISSUANCE}appraising.py::test_a_log_counts_as_known_only_with_its_own_values",
        f"{ISSUANCE}appraising.py::test_the_whole_list_is_asked_for",
        f"{ISSUANCE}appraising.py::test_an_enrollment_sends_its_logs_whole",
    ),
    ("a list in parts that no whole list would be", "docs/ima.md"): (
        f"{EVIDENCE}::test_a_part_in_another_form",
        f"{EVIDENCE}::test_a_text_whose_last_line_has_no_end",
        f"{EVIDENCE}::test_a_bank_more_asks_for_the_whole_list",
        f"{EVIDENCE}::test_two_attestations_at_once_keep_one_list",
        f"{TPM}ima.py::test_a_part_is_written_as_the_one_before",
    ),
    ("reference values outlive their time, or decide before they should", "docs/references.md"): (
        f"{EVIDENCE}::test_a_manifest_ends_at_its_second",
        f"{EVIDENCE}::test_a_manifest_begins_at_its_second",
        f"{EVIDENCE}::test_an_overlap_ends_at_its_second",
        f"{EVIDENCE}::test_what_only_watches_changes_no_claim",
        f"{ISSUANCE}appraising.py::test_a_watched_manifest_says_what_it_would_refuse_and_refuses_nobody",
    ),
    ("reference values that nothing can read again", "TOML 1.0; CWE-1284"): (
        f"{EVIDENCE}::test_numbers_and_times_that_no_manifest_has",
        "unit/appraisal/test_writing.py::test_a_whole_manifest_reads_back",
    ),
    ("one machine's evidence for another", "Parno, 2008"): (
        f"{EVIDENCE}::test_evidence_of_one_device_under_another_s_id",
        f"{EVIDENCE}::test_a_bundle_of_another_device",
        f"{EVIDENCE}::test_another_tpm_with_the_same_counts",
        f"{ATTACK}quote.py::test_a_good_machine_s_quote_for_a_bad_one",
    ),
    ("an old result counts again", "docs/protocol.md, 3"): (
        f"{EVIDENCE}::test_a_released_device_lives_by_no_old_result",
        f"{EVIDENCE}::test_released_by_an_operator_while_an_older_good_quote_is_under_way",
        f"{EVIDENCE}::test_a_demand_is_not_answered_by_evidence_from_before",
        f"{EVIDENCE}::test_no_ear_of_a_quarantined_device_affirms",
    ),
    ("a door tells who exists", "CWE-204"): (
        f"{EVIDENCE}::test_a_demand_tells_nobody_who_exists",
        f"{EVIDENCE}::test_demanding_of_a_device_that_is_not_here",
        f"{WEB}demands.py::test_nobody_looks_like_somebody_who_need_not_attest",
        f"{WEB}demands.py::test_a_viewer_demands_nothing",
    ),
    ("exported evidence proves what it does not hold", "docs/evidence.md"): (
        f"{EVIDENCE}::test_a_bundle_with_another_root",
        f"{EVIDENCE}::test_a_chain_that_ends_elsewhere",
        f"{EVIDENCE}::test_a_record_that_no_service_wrote",
        "unit/cli/test_appraise_bundle.py::test_one_lie_is_found",
        "unit/cli/test_appraise_bundle.py::test_an_endorsement_of_another_chip_is_found",
        "unit/cli/test_appraise_bundle.py::test_the_readers_own_roots_decide",
    ),
    # ---- Credentials, tokens, doors
    ("the header chooses the algorithm or the key", "RFC 8725, 2.1 and 3.1"): (
        f"{ATTACK}signed_requests.py::test_an_algorithm_of_the_sender_s_choice",
        f"{ATTACK}signed_requests.py::test_a_mac_under_the_public_key",
        f"{ATTACK}signed_requests.py::test_no_signature",
        f"{ATTACK}signed_requests.py::test_a_key_that_comes_with_the_request",
        f"{ATTACK}signed_requests.py::test_a_header_member_that_is_not_understood",
        f"{ATTACK}signed_requests.py::test_a_header_member_that_comes_twice",
        f"{CREDENTIALS}tokens.py::test_the_public_key_is_no_hmac_secret",
        f"{ATTACK}edge.py::test_a_token_with_a_header_of_the_sender_s_choice",
    ),
    ("one kind of token serves as another", "RFC 8725, 3.11"): (
        f"{ATTACK}signed_requests.py::test_a_request_is_for_one_verb",
        f"{ATTACK}edge.py::test_a_proof_is_no_token_and_a_request_no_proof",
        f"{ATTACK}edge.py::test_a_signed_time_is_no_bundle",
        f"{CREDENTIALS}tokens.py::test_a_bundle_a_time_or_a_proof_is_no_token",
        f"{EVIDENCE}::test_an_ear_is_no_token",
        f"{EVIDENCE}::test_a_token_called_an_ear_and_the_other_way_round",
    ),
    ("audience, expiry and issuer of a JWT", "JWT-SVID 3"): (
        f"{CREDENTIALS}tokens.py::test_one_lie_in_the_claims",
        f"{ATTACK}default_allow.py::test_an_audience_in_another_spelling",
        f"{ATTACK}edge.py::test_credentials_end",
    ),
    ("a token signed by another key of the house", "docs/protocol.md, 5"): (
        f"{ATTACK}edge.py::test_a_token_signed_by_another_key_of_the_house",
        f"{ATTACK}edge.py::test_a_bundle_signed_by_the_wrong_key",
    ),
    ("one URI SAN, and a leaf is no CA", "X509-SVID 2 and 4"): (
        f"{CREDENTIALS}x509.py::test_one_lie_in_the_leaf",
        f"{CREDENTIALS}x509.py::test_a_leaf_issues_nothing",
    ),
    ("a bound token used by its bearer", "RFC 8705, 3; RFC 9449, 7"): (
        f"{ATTACK}edge.py::test_a_bound_token_is_no_bearer_s",
        f"{ATTACK}edge.py::test_a_proven_token_crosses_once_a_proof",
        f"{ATTACK}edge.py::test_a_proof_for_another_request",
        f"{ATTACK}edge.py::test_a_proof_made_ahead",
        f"{ATTACK}edge.py::test_another_edge_s_nonce",
        f"{ATTACK}default_allow.py::test_no_token_is_a_bearer_s",
    ),
    ("a forwarded certificate header from anyone", "RFC 9440, 4"): (
        f"{ATTACK}edge.py::test_a_certificate_header_counts_from_the_hop_alone",
        f"{ATTACK}edge.py::test_a_certificate_header_that_comes_twice",
        "e2e/test_gates.py::test_a_certificate_header_of_ones_own",
        "e2e/test_gates.py::test_an_identity_that_is_called_hop_by_hop",
        "e2e/test_envoy.py::test_a_header_of_ones_own_is_nothing",
        f"{ENVOY}checks.py::test_a_clients_own_header_is_no_certificate",
        f"{ENVOY}checks.py::test_a_principal_is_not_believed",
        f"{ENVOY}forwarded.py::test_not_from_anybody_else",
        f"{WEB}front.py::test_headers_with_underscores_can_not_pose_as_others",
    ),
    ("headers of a proxy that is not there", "CWE-444"): (
        f"{ATTACK}signed_requests.py::test_a_header_lets_nobody_in",
        f"{ATTACK}signed_requests.py::test_a_header_does_not_change_the_method",
        f"{ATTACK}signed_requests.py::test_the_host_header_moves_nothing",
        f"{ATTACK}signed_requests.py::test_two_authorizations",
    ),
    ("status lists that decompress without end", "draft-ietf-oauth-status-list"): (
        f"{CREDENTIALS}status.py::test_a_decompression_bomb_costs_no_more_than_the_limit",
        f"{ATTACK}edge.py::test_a_device_that_the_bundle_does_not_know",
    ),
    ("CRL number, nextUpdate, issuer", "step-ca#2511"): (
        "unit/ca/test_revocation.py::test_every_field_of_a_list",
        "unit/ca/test_revocation.py::test_each_field_that_differs_is_noticed",
    ),
    ("chain checks skipped when TLS resumes", "spire#6715"): (
        f"{ATTACK}edge.py::test_a_certificate_without_its_signature",
        f"{EDGE}decide.py::test_a_new_bundle_without_the_issuer_forgets_its_signatures",
    ),
    ("bundles: rolled back, stale, from elsewhere", "python-tuf; docs/protocol.md, 5"): (
        f"{ATTACK}edge.py::test_a_bundle_from_before_a_quarantine",
        f"{ATTACK}edge.py::test_a_stale_bundle_lets_nobody_cross",
        f"{ATTACK}edge.py::test_a_genuine_bundle_that_is_wrong",
        f"{ATTACK}edge.py::test_a_stranger_s_authority_of_the_same_name",
        f"{ATTACK}edge.py::test_a_clock_set_back_revives_nothing",
    ),
    ("an EK hash as a lifelong tracker", "docs/protocol.md, 3"): (
        f"{ATTACK}edge.py::test_nothing_of_an_ek_comes_to_an_edge",
        f"{ATTACK}operations.py::test_no_answer_to_operators_holds_secrets",
        f"{WEB}logs.py::test_no_secret_of_a_device_s_whole_life_is_logged",
        f"{EVIDENCE}::test_evidence_leaves_for_operators_alone",
    ),
    ("a page that refreshes itself keeps its session from idling out", "OWASP, Session Management, idle timeout"): (
        f"{ATTACK}idle_sessions.py::test_a_page_that_only_refreshes_itself_does_idle_out",
        f"{ATTACK}idle_sessions.py::test_its_twin_that_somebody_opens_lives_on",
        f"{WEB}sessions.py::test_whatever_that_header_says_it_never_makes_a_session_longer",
        "e2e/test_console_live.py::test_what_a_page_asks_by_itself_says_so",
    ),
    # ---- Default-allow branches
    ("an unhandled message type skips authorisation", "CVE-2026-30836"): (
        f"{WEB}access.py::test_a_route_that_is_not_in_the_table_is_denied_to_everybody",
        f"{WEB}access.py::test_every_route_called_by_everybody",
        f"{WEB}openapi.py::test_every_door_is_described_and_nothing_else",
        f"{ATTACK}default_allow.py::test_no_member_may_be_missing_unknown_or_something_else",
    ),
    ("somebody who left may still act, or nobody may any more", "docs/protocol.md, 9"): (
        f"{WEB}access.py::test_every_route_called_by_everybody",
        f"{WEB}operators.py::test_disabling_counts_from_the_next_call_on_in_every_process",
        f"{WEB}operators.py::test_who_was_disabled_is_added_anew_with_a_key_and_a_role",
        f"{WEB}operators.py::test_two_admins_who_disable_each_other_at_once",
    ),
    ("a key or a certificate of an unknown kind panics", "CVE-2026-40097"): (
        "fuzz/test_finds.py::test_a_public_key_of_an_unknown_kind",
        "fuzz/test_finds.py::test_a_certificate_of_an_unknown_version",
    ),
    ("an empty EKU", "CVE-2026-40097"): (
        f"{CREDENTIALS}x509.py::test_an_empty_extended_key_usage_is_refused",
        f"{TPM}claims.py::test_an_empty_list_of_purposes_is_never_any_purpose",
    ),
    ("a failure is logged, and passes", "CVE-2023-3674"): (
        f"{ATTACK}default_allow.py::test_tpm_structures_changed_at_random_give_no_credential",
        f"{ATTACK}default_allow.py::test_octets_changed_at_random_give_no_credential",
        f"{TPM}attest.py::test_a_flipped_bit_anywhere_is_noticed",
        f"{ISSUANCE}appraising.py::test_a_log_that_decides_and_was_not_sent",
    ),
    ("an exception leaves trust in place", "CVE-2022-3500"): (
        f"{ATTACK}default_allow.py::test_a_fault_gives_nothing",
        f"{EDGE}doors.py::test_what_nobody_foresaw",
        "unit/policy/test_decisions.py::test_an_engine_that_raises_denies",
        f"{EVIDENCE}::test_a_fault_while_judging_logs_gives_nothing",
    ),
    ("a policy that can't be evaluated permits", "Cedar, authorization semantics"): (
        f"{ATTACK}default_allow.py::test_what_no_policy_permits_is_denied",
        "unit/policy/test_decisions.py::test_a_policy_that_fails_denies",
    ),
    ("a nonce is a constant", "CVE-2026-6420"): (
        f"{ATTACK}signed_requests.py::test_nonces_are_never_the_same",
        f"{ATTACK}signed_requests.py::test_a_nonce_that_nobody_gave",
        f"{ATTACK}signed_requests.py::test_a_nonce_serves_one_device",
    ),
    ("a state improves by asking again", "docs/protocol.md, 3"): (
        f"{ATTACK}quarantines.py::test_what_an_operator_quarantined_no_good_attestation_releases",
        f"{ATTACK}quarantines.py::test_what_a_restore_quarantined_no_good_attestation_releases",
        f"{ATTACK}quarantines.py::test_a_quarantine_of_long_ago_does_not_vouch_for_one_of_today",
        f"{ATTACK}quarantines.py::test_an_operator_s_word_under_way_counts",
        f"{ATTACK}endorsement.py::test_enrolling_again_improves_no_state",
        f"{ATTACK}endorsement.py::test_a_second_endorsement_key_does_not_end_a_quarantine",
    ),
    ("a policy that fails is skipped, so that a forbid opens the door", "Cedar, Authorization: skip-on-error"): (
        "unit/policy/test_decisions.py::test_a_policy_that_fails_denies",
        f"{ATTACK}default_allow.py::test_what_no_policy_permits_is_denied",
        f"{ATTACK}policies.py::test_an_absent_fact_denies_and_the_log_says_so",
    ),
    ("a proxy hands a client's own header on as its word", "nginx ngx_http_auth_request_module; RFC 9440, 3.1"): (
        f"{ATTACK}policies.py::test_a_sender_labels_nothing",
        f"{ATTACK}policies.py::test_nobody_else_speaks_for_the_hop",
        "e2e/test_policy_at_the_edge.py::test_labels_on_their_way",
        f"{ENVOY}checks.py::test_labels_are_the_routes",
        f"{ENVOY}checks.py::test_beside_a_certificate_they_are_removed",
        f"{ENVOY}configuration.py::test_what_only_we_may_say_is_taken_from_clients",
    ),
    (
        "an unverified certificate writes into a proxy's header",
        "Envoy, x-forwarded-client-cert: By, URI and DNS unescaped",
    ): (
        f"{ENVOY}forwarded.py::test_the_certificate_must_be_the_digests",
        f"{ENVOY}forwarded.py::test_anything_else",
        f"{ENVOY}http_mode.py::test_two_proxies_words",
        f"{ENVOY}configuration.py::test_the_certificate_is_written_anew",
    ),
    ("a proxy lets pass what its authority could not answer", "Envoy ext_authz, failure_mode_allow"): (
        f"{ENVOY}configuration.py::test_what_fails_is_refused",
        f"{ENVOY}checks.py::test_what_nobody_foresaw",
        f"{ENVOY}checks.py::test_no_status_says_ok_with_a_refusal_inside",
        "e2e/test_envoy.py::test_a_question_beyond_all_measure",
    ),
    ("two equal headers become one on the way", "Envoy, AttributeContext.HttpRequest.headers"): (
        f"{ENVOY}checks.py::test_two_of_them",
        f"{ENVOY}checks.py::test_headers_in_both_forms",
    ),
    ("of two equal names in a header the last one wins", "RFC 8941, 3.2"): (
        f"{ATTACK}policies.py::test_what_cant_be_read_passes_nowhere",
        f"{EDGE}labels.py::test_or_refused_whole",
        f"{EDGE}labels.py::test_and_never_contradict_each_other",
    ),
    # ---- Operations
    ("open connections stall the registrar", "CVE-2023-38200, CVE-2025-1057"): (
        f"{WEB}front.py::test_a_body_that_stalls_costs_no_thread",
        "e2e/test_serving.py::test_stalled_bodies_do_not_make_it_deaf",
        f"{ATTACK}operations.py::test_beginning_writes_nothing",
        f"{ATTACK}operations.py::test_guesses_are_bounded_and_spoil_nothing",
    ),
    ("herds without a word when to come back", "spire#4490"): (
        f"{WEB}front.py::test_a_line_for_threads_is_bounded",
        f"{ATTACK}operations.py::test_a_flood_of_strangers_makes_no_more_rows_than_the_cap",
    ),
    ("one bad reference value takes a fleet down", "keylime#1515"): (
        f"{ATTACK}quarantines.py::test_one_bad_manifest_does_not_take_a_fleet_down",
        f"{ATTACK}quarantines.py::test_carried_out_all_are_suspended",
        f"{ATTACK}quarantines.py::test_dismissed_nobody_is_and_the_next_results_count",
        f"{ATTACK}quarantines.py::test_evidence_that_is_good_again_is_not_carried_out",
        f"{ATTACK}quarantines.py::test_a_cohort_comes_back_by_one_act",
        f"{ATTACK}quarantines.py::test_engaging_the_brake_saves_nobody_that_is_quarantined",
        f"{EVIDENCE}::test_a_held_list_goes_on",
    ),
    ("a database that only grows", "step-ca#473"): (
        f"{ATTACK}operations.py::test_requests_that_nobody_decides_on_are_forgotten",
        f"{ATTACK}operations.py::test_spent_nonces_are_forgotten_after_they_could_count",
        "unit/registry/test_issued.py::test_forgetting_expired_certificates_with_their_revocations",
    ),
    ("lifetimes that do not nest", "spire#7199"): (
        "unit/ca/test_profiles.py::test_each_contradiction_is_refused_with_the_arithmetic",
        f"{WEB}health.py::test_not_ready_when_the_issuer_is_about_to_end",
    ),
    (
        "logs on a machine that is not trusted can be cut, changed or dropped",
        "Schneier and Kelsey, USENIX Security 1998",
    ): (
        f"{ATTACK}receipts.py::test_an_edges_disk_is_no_place_to_change_history",
        f"{ATTACK}receipts.py::test_a_tail_that_is_cut_off_after_delivery_is_a_fork",
        f"{ATTACK}receipts.py::test_a_copied_disk_speaks_for_nobody_else",
        f"{ATTACK}receipts.py::test_receipts_of_one_chain_are_no_others",
        f"{ATTACK}receipts.py::test_the_databases_owner_can_not_rewrite_what_is_sealed",
        f"{ATTACK}receipts.py::test_a_full_disk_lets_nothing_pass",
        f"{ATTACK}receipts.py::test_strangers_can_not_fill_the_room_of_those_who_may_cross",
        "unit/attestd_edge/receipts/test_keeping_receipts.py::test_a_clock_that_went_back_begins_a_new_chain",
        f"{WEB}receipts.py::test_receipts_from_the_future_are_held_back",
        f"{WEB}receipts.py::test_what_is_wrong_is_refused_whole_and_written_down",
        "unit/auditing/test_receipts_examined.py::test_what_is_wrong_is_named",
        "e2e/test_receipts.py::test_tampering_with_the_service_is_found",
    ),
    ("a verifier that died unnoticed", "keylime#1091"): (
        f"{EDGE}doors.py::test_a_stale_edge_is_an_alarm",
        "unit/test_publication.py::test_silence_is_broken_before_edges_go_stale",
        f"{ATTACK}operations.py::test_what_is_refused_is_in_the_audit_trail",
        "unit/upkeep/test_watching.py::test_a_device_is_told_some_time_after_its_result_ended",
        f"{WEB}health.py::test_how_long_ago_the_watch_looked",
        f"{WEB}alert_rules.py::test_every_end_that_a_rule_watches_is_exposed",
        f"{EVIDENCE}::test_nothing_is_renewed_by_a_result_that_is_over",
    ),
}


@cache
def names_in(file: str) -> frozenset[str]:
    """The names of all test functions and methods in a file, without running it."""
    tree = ast.parse((TESTS / file).read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


@pytest.mark.parametrize("row", COVERED, ids=lambda row: row[0])
def test_every_pitfall_has_tests_that_exist(row: tuple[str, str]) -> None:
    what, source = row
    assert what
    assert source
    assert COVERED[row], "no test"
    for test in COVERED[row]:
        file, _, name = test.partition("::")
        assert (TESTS / file).is_file(), f"there is no {file}"
        assert name in names_in(file), f"there is no {name} in {file}"


def test_every_attack_is_in_files_that_the_table_names() -> None:
    """A new file of attacks belongs to some pitfall."""
    named = {test.partition("::")[0] for tests in COVERED.values() for test in tests}
    here = {f"attacks/{path.name}" for path in Path(__file__).parent.glob("test_*.py")}
    assert here - {f"attacks/{Path(__file__).name}"} <= named
